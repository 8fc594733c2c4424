output "prometheus" {
  description = "Prometheus, for Grafana's data source and for operators."
  value       = "http://${aws_instance.observability.private_ip}:9090"
}
