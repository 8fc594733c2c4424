# Many regions from one map: capacity and topology say what follows from it, `pop` makes each region, the control plane, etcd and Prometheus
# stand at home, and every region is joined with home by private networks. Media and links between edges go over the internet.

module "capacity" {
  source      = "../capacity"
  viewers     = { for name, region in var.regions : name => region.viewers }
  cores       = var.edge.cores
  egress_gbps = var.edge.egress_gbps
  memory_gib  = var.edge.memory_gib
  packet_ns   = var.packet_ns
}

module "topology" {
  source       = "../topology"
  regions      = { for name, region in var.regions : name => { edges = region.edges_max } }
  cidr         = var.cidr
  networks     = var.networks
  etcd_regions = [var.home, var.home, var.home]
}

locals {
  home    = var.regions[var.home]
  abroad  = { for name, region in var.regions : name => region if name != var.home }
  subnets = module.pop[var.home].subnets
  # Two zones of home: the first holds two of three members. Addresses from the end of each subnet, which AWS gives out last.
  etcd = {
    for index, name in sort(keys(module.topology.etcd.members)) : name => {
      subnet_id = local.subnets[index % 2].id
      address   = cidrhost(local.subnets[index % 2].cidr, -10 - index)
    }
  }
}

module "pop" {
  source                 = "../pop"
  for_each               = var.regions
  name                   = each.key
  aws_region             = each.value.aws_region
  ami_id                 = each.value.ami_id
  cidr                   = module.topology.cidrs[each.key]
  edges                  = { min = module.capacity.edges_with_spares[each.key], max = each.value.edges_max }
  instance_type          = var.edge.instance_type
  bottleneck             = module.capacity.bottleneck
  egress_gbps            = var.edge.egress_gbps
  capacity               = module.capacity.viewers_per_edge
  monthly_egress_usd_max = each.value.monthly_egress_usd_max
  cost_mail              = var.cost_mail
  package                = { url = var.package.url, sha256 = var.package.sha256 }
  control_plane_url      = "https://control.${var.domain}:8090"
  etcd_endpoints         = [for name in sort(keys(local.etcd_names)) : "http://${name}.${var.domain}:2379"]
  secrets                = { for name in ["ca", "enrolment_token", "tls_chain", "tls_key"] : name => var.secrets[name] }
  dns                    = { domain = var.domain, zone_id = var.zone_id }
  operators              = var.operators
}

module "control_plane" {
  source            = "../control-plane"
  aws_region        = local.home.aws_region
  ami_id            = local.home.ami_id
  vpc_id            = module.pop[var.home].vpc_id
  subnet_id         = local.subnets[0].id
  availability_zone = local.subnets[0].availability_zone
  mesh_networks     = values(module.topology.cidrs)
  etcd              = { members = local.etcd, heartbeat_ms = module.topology.etcd.heartbeat_ms, election_timeout_ms = module.topology.etcd.election_timeout_ms }
  package           = var.package
  secrets           = { for name in ["ca", "ca_key", "enrolment_token", "operator_token", "tls_chain", "tls_key"] : name => var.secrets[name] }
  dns               = { name = "meet.${var.domain}", zone_id = var.zone_id }
}

module "observability" {
  source     = "../observability"
  aws_region = local.home.aws_region
  ami_id     = local.home.ami_id
  vpc_id     = module.pop[var.home].vpc_id
  subnet_id  = local.subnets[1].id
  regions    = [for region in values(var.regions) : region.aws_region]
  domain     = var.domain
  page       = "meet.${var.domain}"
  operators  = var.operators
}

# Names for what edges are told before it exists: their configuration must not depend on machines that depend on their network.
locals {
  etcd_names = module.topology.etcd.members
}

resource "aws_route53_record" "etcd" {
  for_each = local.etcd_names
  zone_id  = var.zone_id
  name     = "${each.key}.${var.domain}"
  type     = "A"
  ttl      = 60
  records  = [local.etcd[each.key].address]
}

resource "aws_route53_record" "control" {
  zone_id = var.zone_id
  name    = "control.${var.domain}"
  type    = "A"
  ttl     = 60
  records = [module.control_plane.grpc_address]
}

resource "aws_vpc_peering_connection" "home" {
  for_each    = local.abroad
  region      = local.home.aws_region
  vpc_id      = module.pop[var.home].vpc_id
  peer_vpc_id = module.pop[each.key].vpc_id
  peer_region = each.value.aws_region
  tags        = { Name = "meridian-${each.key}" }
}

resource "aws_vpc_peering_connection_accepter" "abroad" {
  for_each                  = local.abroad
  region                    = each.value.aws_region
  vpc_peering_connection_id = aws_vpc_peering_connection.home[each.key].id
  auto_accept               = true
}

resource "aws_route" "from_home" {
  for_each                  = local.abroad
  region                    = local.home.aws_region
  route_table_id            = module.pop[var.home].route_table_id
  destination_cidr_block    = module.topology.cidrs[each.key]
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.abroad[each.key].id
}

resource "aws_route" "to_home" {
  for_each                  = local.abroad
  region                    = each.value.aws_region
  route_table_id            = module.pop[each.key].route_table_id
  destination_cidr_block    = module.topology.cidrs[var.home]
  vpc_peering_connection_id = aws_vpc_peering_connection_accepter.abroad[each.key].id
}
