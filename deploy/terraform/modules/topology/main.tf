# What follows from one map of regions, whoever provides the machines: names of edges, networks, where etcd stands and how patient it is.

locals {
  names = sort(keys(var.regions))

  # 10.0.0.0/8 gives a /16 to each of 256 regions. By name order, so that a region that is added last in the alphabet moves nobody; one in
  # the middle would: give its number in `networks`.
  networks = { for index, name in local.names : name => coalesce(lookup(var.networks, name, null), index) }
  cidrs    = { for name, number in local.networks : name => cidrsubnet(var.cidr, 8, number) }

  edges = merge([
    for name in local.names : { for number in range(1, var.regions[name].edges + 1) : "${name}-${number}" => { region = name, number = number } }
  ]...)

  etcd_pairs = flatten([
    for index, one in var.etcd_regions : [for other in slice(var.etcd_regions, index + 1, length(var.etcd_regions)) : join("/", sort([one, other]))]
  ])
  etcd_distinct_pairs = distinct([for pair in local.etcd_pairs : pair if split("/", pair)[0] != split("/", pair)[1]])
  etcd_rtts           = [for pair in local.etcd_distinct_pairs : lookup(var.etcd_rtt_ms, pair, 9999)]
  etcd_rtt_max        = max(concat([1], local.etcd_rtts)...)
}
