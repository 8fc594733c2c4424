/** A device's name for a person: browsers append USB ids, and prefix the one the system would take. */
export function readableLabel(device: Pick<MediaDeviceInfo, 'deviceId' | 'label'>, fallback: string): string {
  const name = device.label
    .replace(/\s*\([0-9a-f]{4}:[0-9a-f]{4}\)\s*$/i, '')
    .replace(/^(Default|Communications) - /, '')
    .replace(/_/g, ' ')
    .trim();
  const readable = name || fallback;
  if (device.deviceId === 'default') return name && name !== 'Default' ? `System default (${readable})` : 'System default';
  return readable;
}
