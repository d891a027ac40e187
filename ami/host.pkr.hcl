# The image of a host for tasks: the ECS-optimised Amazon Linux 2023, provisioned by provision/.
# One description for both architectures; what differs is in the two `source` blocks of the build.

locals {
  version = formatdate("YYYYMMDD-hhmmss", timestamp())
}

source "amazon-ebs" "host" {
  region      = var.region
  ami_regions = var.regions
  subnet_id   = var.subnet_id

  ssh_username                = "ec2-user"
  ssh_interface               = "public_ip"
  associate_public_ip_address = true

  ami_virtualization_type = "hvm"
  ena_support             = true
  encrypt_boot            = true
  kms_key_id              = var.kms_key_id
  imds_support            = "v2.0"

  # Version 2 of the metadata service only, for the build instance; imds_support is for the image's.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # The root disk: the system, and the host's own images.
  launch_block_device_mappings {
    device_name           = "/dev/xvda"
    volume_type           = "gp3"
    volume_size           = 30
    iops                  = 3000
    throughput            = 250
    delete_on_termination = true
  }

  # The storage volume is no part of the snapshot: an instance gets an empty one and formats it.
  ami_block_device_mappings {
    device_name           = "/dev/sdf"
    volume_type           = "gp3"
    volume_size           = var.storage_gib
    iops                  = 6000
    throughput            = 500
    encrypted             = true
    delete_on_termination = true
  }

  run_tags = {
    Name = "packer ${var.name}"
  }
}

build {
  source "source.amazon-ebs.host" {
    name          = "x86_64"
    source_ami    = local.base["x86_64"]
    instance_type = "m6i.large"
    ami_name      = "${var.name}-x86_64-${local.version}"
    tags          = { Name = "${var.name}-x86_64", Base = local.base["x86_64"] }
  }

  source "source.amazon-ebs.host" {
    name          = "arm64"
    source_ami    = local.base["arm64"]
    instance_type = "m6g.large"
    ami_name      = "${var.name}-arm64-${local.version}"
    tags          = { Name = "${var.name}-arm64", Base = local.base["arm64"] }
  }

  provisioner "shell" {
    inline = ["mkdir -p /tmp/checkout/ami /tmp/checkout/images/dind"]
  }

  provisioner "file" {
    sources     = ["provision", "files"]
    destination = "/tmp/checkout/ami/"
  }

  provisioner "file" {
    source      = "../systemd"
    destination = "/tmp/checkout/"
  }

  provisioner "file" {
    source      = "../images/dind/seccomp.json"
    destination = "/tmp/checkout/images/dind/seccomp.json"
  }

  provisioner "file" {
    source      = "${var.programs}/${source.name}/dindd"
    destination = "/tmp/checkout/ami/provision/dindd"
  }

  provisioner "shell" {
    environment_vars = [
      "REGISTRY_MIRRORS=${var.registry_mirrors}",
      "NEW_RELIC=${var.new_relic}",
    ]
    inline = [
      "chmod -R a+rX /tmp/checkout",
      "sudo -E /tmp/checkout/ami/provision/provision",
      "sudo rm -rf /tmp/checkout",
    ]
  }

  # Which image is which, for a launch template or the next step of a pipeline.
  post-processor "manifest" {
    output     = "manifest.json"
    strip_path = true
  }
}
