output "vpc_id" {
  description = "The PoP's network, for peering."
  value       = aws_vpc.pop.id
}

output "route_table_id" {
  description = "Where routes to other networks belong."
  value       = aws_route_table.pop.id
}

output "group" {
  description = "The autoscaling group, for `aws autoscaling start-instance-refresh`."
  value       = aws_autoscaling_group.edges.name
}

output "subnets" {
  description = "Its subnets, each with its zone and network, for what stands beside the edges."
  value       = [for subnet in aws_subnet.edges : { id = subnet.id, availability_zone = subnet.availability_zone, cidr = subnet.cidr_block }]
}
