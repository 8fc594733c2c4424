# The control plane and etcd. One control plane with its database on a disk of its own, which outlives the machine and is kept for 30 days;
# etcd's members, each on its own machine. Calls go on while any of it is away.

locals {
  tags    = { Name = "meridian-${var.name}", meridian-role = "control-plane" }
  cluster = join(",", [for name, member in var.etcd.members : "${name}=http://${member.address}:2380"])
}

resource "aws_security_group" "control" {
  region      = var.aws_region
  name        = "meridian-${var.name}"
  description = "The page, and gRPC for edges"
  vpc_id      = var.vpc_id
  tags        = local.tags
}

resource "aws_vpc_security_group_ingress_rule" "https" {
  for_each          = { v4 = "0.0.0.0/0", v6 = "::/0" }
  region            = var.aws_region
  security_group_id = aws_security_group.control.id
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
  cidr_ipv4         = strcontains(each.value, ":") ? null : each.value
  cidr_ipv6         = strcontains(each.value, ":") ? each.value : null
}

# Mutual TLS keeps strangers out; enrolment needs the port before an edge has a certificate.
resource "aws_vpc_security_group_ingress_rule" "grpc" {
  for_each          = toset(var.mesh_networks)
  region            = var.aws_region
  security_group_id = aws_security_group.control.id
  ip_protocol       = "tcp"
  from_port         = 8090
  to_port           = 8090
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_egress_rule" "control" {
  region            = var.aws_region
  security_group_id = aws_security_group.control.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_security_group" "etcd" {
  region      = var.aws_region
  name        = "meridian-etcd"
  description = "etcd: members and the mesh"
  vpc_id      = var.vpc_id
  tags        = { Name = "meridian-etcd", meridian-role = "etcd" }
}

resource "aws_vpc_security_group_ingress_rule" "etcd" {
  for_each          = toset(var.mesh_networks)
  region            = var.aws_region
  security_group_id = aws_security_group.etcd.id
  ip_protocol       = "tcp"
  from_port         = 2379
  to_port           = 2380
  cidr_ipv4         = each.value
}

resource "aws_vpc_security_group_egress_rule" "etcd" {
  region            = var.aws_region
  security_group_id = aws_security_group.etcd.id
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"
}

resource "aws_iam_role" "control" {
  name = "meridian-${var.name}"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

data "aws_caller_identity" "current" {}

resource "aws_iam_role_policy" "control" {
  name = "secrets"
  role = aws_iam_role.control.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect   = "Allow"
      Action   = "ssm:GetParameter"
      Resource = [for name in values(var.secrets) : "arn:aws:ssm:${var.aws_region}:${data.aws_caller_identity.current.account_id}:parameter${name}"]
    }]
  })
}

resource "aws_iam_instance_profile" "control" {
  name = "meridian-${var.name}"
  role = aws_iam_role.control.name
}

resource "aws_ebs_volume" "data" {
  region            = var.aws_region
  availability_zone = var.availability_zone
  size              = 20
  type              = "gp3"
  encrypted         = true
  tags              = merge(local.tags, { meridian-backup = "daily" })

  # Meetings, accounts, and the key that every edge's certificate hangs on.
  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_volume_attachment" "data" {
  region                         = var.aws_region
  device_name                    = "/dev/sdf"
  volume_id                      = aws_ebs_volume.data.id
  instance_id                    = aws_instance.control.id
  stop_instance_before_detaching = true
}

resource "aws_iam_role" "backup" {
  name = "meridian-${var.name}-backup"
  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "dlm.amazonaws.com" } }]
  })
}

resource "aws_iam_role_policy_attachment" "backup" {
  role       = aws_iam_role.backup.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AWSDataLifecycleManagerServiceRole"
}

resource "aws_dlm_lifecycle_policy" "backup" {
  region             = var.aws_region
  description        = "Meridian's database, daily for 30 days"
  execution_role_arn = aws_iam_role.backup.arn
  state              = "ENABLED"

  policy_details {
    resource_types = ["VOLUME"]
    target_tags    = { meridian-backup = "daily" }

    schedule {
      name      = "daily"
      copy_tags = true

      create_rule {
        interval      = 24
        interval_unit = "HOURS"
        times         = ["03:00"]
      }
      retain_rule {
        count = 30
      }
    }
  }
}

resource "aws_instance" "control" {
  region                      = var.aws_region
  ami                         = var.ami_id
  instance_type               = var.instance_type
  subnet_id                   = var.subnet_id
  vpc_security_group_ids      = [aws_security_group.control.id]
  iam_instance_profile        = aws_iam_instance_profile.control.name
  user_data_replace_on_change = true
  tags                        = local.tags
  user_data_base64 = base64gzip(templatefile("${path.module}/../../../cloud-init/control-plane.yaml.tftpl", {
    unit           = file("${path.module}/../../../systemd/meridian-control-plane.service")
    sysusers       = file("${path.module}/../../../systemd/meridian-sysusers.conf")
    first_boot     = file("${path.module}/../../../cloud-init/control-plane-first-boot.sh")
    id             = var.name
    aws_region     = var.aws_region
    package        = var.package
    etcd_endpoints = [for member in values(var.etcd.members) : "http://${member.address}:2379"]
    secrets        = var.secrets
    dns            = var.dns
  }))

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }
}

resource "aws_eip" "control" {
  region   = var.aws_region
  domain   = "vpc"
  instance = aws_instance.control.id
  tags     = local.tags
}

resource "aws_route53_record" "page" {
  zone_id = var.dns.zone_id
  name    = var.dns.name
  type    = "A"
  ttl     = 60
  records = [aws_eip.control.public_ip]
}

resource "aws_instance" "etcd" {
  for_each               = var.etcd.members
  region                 = var.aws_region
  ami                    = var.ami_id
  instance_type          = var.etcd_instance_type
  subnet_id              = each.value.subnet_id
  private_ip             = each.value.address
  vpc_security_group_ids = [aws_security_group.etcd.id]
  tags                   = { Name = "meridian-${each.key}", meridian-role = "etcd" }
  user_data_base64 = base64gzip(templatefile("${path.module}/../../../cloud-init/etcd.yaml.tftpl", {
    name                = each.key
    address             = each.value.address
    cluster             = local.cluster
    heartbeat_ms        = var.etcd.heartbeat_ms
    election_timeout_ms = var.etcd.election_timeout_ms
  }))

  root_block_device {
    volume_type = "gp3"
    volume_size = 20
    encrypted   = true
  }
  metadata_options {
    http_endpoint = "enabled"
    http_tokens   = "required"
  }

  # A member that is replaced by an empty one is a vote lost: `etcdctl member remove` and `member add` first (docs/runbooks.md).
  lifecycle {
    ignore_changes = [ami, user_data_base64]
  }
}
