# Prometheus and Alertmanager on one machine, with the rules and routes of deploy/observability as they stand there. It finds its targets by
# the tags that the other modules set.

locals {
  files = {
    "prometheus.yml"      = file("${path.module}/../../../observability/prometheus.yml")
    "rules/recording.yml" = file("${path.module}/../../../observability/rules/recording.yml")
    "rules/alerts.yml"    = file("${path.module}/../../../observability/rules/alerts.yml")
  }
  tags = { Name = "meridian-observability", meridian-role = "observability" }
}

resource "aws_security_group" "observability" {
  region      = var.aws_region
  name        = "meridian-observability"
  description = "Prometheus and Alertmanager, for operators"
  vpc_id      = var.vpc_id
  tags        = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "operators" {
  for_each          = toset(var.operators)
  region            = var.aws_region
  security_group_id = aws_security_group.observability.id
  ip_protocol       = "tcp"
  from_port         = 9090
  to_port           = 9093
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_egress_rule" "all" {
  region            = var.aws_region
  security_group_id = aws_security_group.observability.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_iam_role" "observability" {
  name = "meridian-observability"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy" "discovery" {
  name = "discovery"
  role = aws_iam_role.observability.id
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "ec2:DescribeInstances", Resource = "*" }]
  })
}

resource "aws_iam_instance_profile" "observability" {
  name = "meridian-observability"
  role = aws_iam_role.observability.name
}

resource "aws_instance" "observability" {
  region                      = var.aws_region
  ami                         = var.ami_id
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = [aws_security_group.observability.id]
  iam_instance_profile        = aws_iam_instance_profile.observability.name
  user_data_replace_on_change = true
  tags                        = local.tags
  user_data_base64 = base64gzip(templatefile("${path.module}/../../../cloud-init/observability.yaml.tftpl", {
    files          = local.files
    alertmanager   = file("${path.module}/../../../observability/alertmanager.yml")
    targets        = file("${path.module}/../../../cloud-init/prometheus-targets.sh")
    regions        = var.regions
    domain         = var.domain
    page           = var.page
    retention_days = var.retention_days
  }))

  root_block_device {
    volume_type = "gp3"
    volume_size = 100
    encrypted   = true
  }
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}
