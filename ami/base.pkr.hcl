# What needs Packer 1.7 or newer and the Amazon plugin: the plugin itself, and the look-up of the
# base images. A check without them replaces this file by test/base.pkr.hcl.

packer {
  required_version = ">= 1.7.0"

  required_plugins {
    amazon = {
      source  = "github.com/hashicorp/amazon"
      version = ">= 1.2.8"
    }
  }
}

# Amazon's recommended ECS-optimised images, by architecture.
data "amazon-parameterstore" "x86_64" {
  region = var.region
  name   = "/aws/service/ecs/optimized-ami/amazon-linux-2023/recommended/image_id"
}

data "amazon-parameterstore" "arm64" {
  region = var.region
  name   = "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id"
}

locals {
  base = {
    x86_64 = data.amazon-parameterstore.x86_64.value
    arm64  = data.amazon-parameterstore.arm64.value
  }
}
