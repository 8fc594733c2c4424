output "edges" {
  description = "Every edge by its name (node.id), with its region."
  value       = local.edges
}

output "cidrs" {
  description = "Private network of each region."
  value       = local.cidrs

  precondition {
    condition     = length(distinct(values(local.networks))) == length(local.networks)
    error_message = "networks: two regions have one number. Give every region in the middle of the alphabet a number of its own."
  }
}

output "links" {
  description = "Links between edges: each pair has one."
  value       = length(local.edges) * (length(local.edges) - 1) / 2
}

output "etcd" {
  description = "etcd's members by name, and its timing: the election timeout is ten round trips, so that a slow packet is not taken for a death."
  value = {
    members             = { for index, region in var.etcd_regions : "etcd-${index + 1}" => region }
    heartbeat_ms        = max(100, ceil(local.etcd_rtt_max))
    election_timeout_ms = max(1000, 10 * ceil(local.etcd_rtt_max))
  }

  precondition {
    condition     = alltrue([for pair in local.etcd_distinct_pairs : contains(keys(var.etcd_rtt_ms), pair)])
    error_message = "etcd_rtt_ms: measure and name the round trip of each pair of etcd's regions: ${join(", ", local.etcd_distinct_pairs)}."
  }
}
