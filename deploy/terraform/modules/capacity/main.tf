# How many edges each region takes: the same arithmetic as `meridian plan` (src/plan.rs), with the costs that README.md measured.
# tests/deploy compares the two.

locals {
  # README.md, "What it costs".
  audio_packet_ns   = 2050
  relayed_packet_ns = 1158
  # The design's limit: signalling and TLS of a viewer are not measured yet.
  viewer_bytes = 65536

  packet_bytes        = 1200
  ip_udp_bytes        = 28
  audio_packet_bytes  = 80 + 12 + 16 + local.ip_udp_bytes
  audio_packets_per_s = 50 * var.speakers

  video_bits  = var.video_kbps * 1000 * var.cameras
  video       = local.video_bits / 8 / local.packet_bytes
  relayed     = var.relayed_share * (local.video + local.audio_packets_per_s)
  viewer_core = (local.video * var.packet_ns + local.audio_packets_per_s * local.audio_packet_ns + local.relayed * local.relayed_packet_ns) / 1000000000
  viewer_bits = local.video_bits + 8 * (local.video * local.ip_udp_bytes + local.audio_packets_per_s * local.audio_packet_bytes)

  # What share of an edge's cores, egress and memory one viewer takes.
  shares = {
    cores  = local.viewer_core / var.cores
    egress = local.viewer_bits / (var.egress_gbps * 1000000000)
    memory = local.viewer_bytes / (var.memory_gib * 1073741824)
  }
  share      = max(values(local.shares)...) / var.busy_share
  bottleneck = [for name in ["cores", "egress", "memory"] : name if local.shares[name] == max(values(local.shares)...)][0]
}
