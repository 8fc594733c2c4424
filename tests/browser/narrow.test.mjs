/**
 * Firefox joins over a path that drops UDP datagrams of 1,401 to 1,500 bytes, as tunnels and some mobile networks do: its DTLS hello is 1,461 bytes, cut
 * so that the first part never arrives, until it is cut anew. In a network namespace (see firefox.test.mjs), by IPv4 and by IPv6.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { launchFirefox } from './firefox.mjs';
import { enter, shot, testId } from './people.mjs';
import { startMesh } from './processes.mjs';

const { MERIDIAN_ADDRESS: HOST, MERIDIAN_ADDRESS_6: HOST_6 } = process.env;

/** Towards browsers' peers nothing long passes in `family`, and nothing at all in the other. */
function narrow(family, other) {
  const rules = `
    table inet path
    delete table inet path
    table inet path {
      chain arriving {
        type filter hook input priority 0;
        iif lo ip daddr 127.0.0.0/8 accept
        meta nfproto ${family} meta l4proto udp meta length 1401-1500 counter drop
        meta nfproto ${other} meta l4proto udp drop
      }
    }`;
  execFileSync('nft', ['-f', '-'], { input: rules });
}

const dropped = () => Number(/counter packets (\d+)/.exec(execFileSync('nft', ['list', 'table', 'inet', 'path'], { encoding: 'utf8' }))[1]);

describe('Firefox on a path that drops long datagrams', { skip: !HOST && 'MERIDIAN_ADDRESS is not set', timeout: 120_000 }, () => {
  let mesh, firefox;
  let failed = true;

  before(async () => {
    mesh = await startMesh({ host: HOST, host6: HOST_6, regions: ['fra'] });
    firefox = await launchFirefox();
  });

  after(async () => {
    if (firefox) await shot(firefox.page, 'narrow-last').catch(() => {});
    await firefox?.close();
    await mesh?.close({ failed });
  });

  for (const [family, other] of [['ipv4', 'ipv6'], ['ipv6', 'ipv4']]) {
    test(`it is in a meeting by ${family}`, async (t) => {
      failed = true;
      narrow(family, other);
      const { page } = firefox;
      await page.goto(`${mesh.url}/?capture=360`);
      await page.click(testId('start-meeting'));
      const startMs = Date.now();
      await enter(page, 'Fay');
      t.diagnostic(`connected after ${Date.now() - startMs} ms; ${dropped()} datagrams dropped`);
      assert.ok(dropped() > 0, 'its hello was short enough for this path: the test shows nothing');
      failed = false;
    });
  }
});
