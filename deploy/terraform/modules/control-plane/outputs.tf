output "etcd_endpoints" {
  description = "etcd's client URLs, for edges."
  value       = [for member in values(var.etcd.members) : "http://${member.address}:2379"]
}

output "grpc_url" {
  description = "Where edges connect."
  value       = "https://${aws_instance.control.private_ip}:8090"
}

output "page" {
  description = "The page's address."
  value       = "https://${aws_route53_record.page.fqdn}"
}

output "grpc_address" {
  description = "The private address behind that URL."
  value       = aws_instance.control.private_ip
}
