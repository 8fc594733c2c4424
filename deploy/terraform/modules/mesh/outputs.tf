output "page" {
  description = "Where people begin."
  value       = module.control_plane.page
}

output "plan" {
  description = "What was reckoned with: edges, the bottleneck, egress to viewers, links."
  value = {
    edges       = module.capacity.edges_with_spares
    bottleneck  = module.capacity.bottleneck
    egress_gbps = module.capacity.egress_gbps
    links_max   = module.topology.links
  }
}

output "prometheus" {
  description = "For operators."
  value       = module.observability.prometheus
}
