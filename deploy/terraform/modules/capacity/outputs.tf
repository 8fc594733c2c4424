output "edges" {
  description = "Edges that the viewers of each region take, without spares. A region has at least one."
  value       = { for region, viewers in var.viewers : region => max(1, ceil(viewers * local.share)) }
}

output "edges_with_spares" {
  description = "Edges to run in each region."
  value       = { for region, viewers in var.viewers : region => max(1, ceil(viewers * local.share)) + var.spare }
}

output "bottleneck" {
  description = "Which of cores, egress and memory of an edge ends first: what autoscaling should follow."
  value       = local.bottleneck
}

output "viewers_per_edge" {
  description = "People one edge holds at busy_share: its node.capacity."
  value       = floor(1 / local.share)
}

output "egress_gbps" {
  description = "To viewers, by region, Gbit/s: what the traffic bill follows."
  value       = { for region, viewers in var.viewers : region => viewers * local.viewer_bits / 1000000000 }
}
