variable "region" {
  description = "Where the image is built."
  type        = string
  default     = "us-east-1"
}

variable "regions" {
  description = "Further regions that get a copy."
  type        = list(string)
  default     = []
}

variable "name" {
  description = "What the image's name begins with."
  type        = string
  default     = "ecs-runner-host"
}

variable "subnet_id" {
  description = "Subnet of the build instance; the default VPC's when empty."
  type        = string
  default     = ""
}

variable "kms_key_id" {
  description = "Key that encrypts the image; the account's default key when empty."
  type        = string
  default     = ""
}

variable "programs" {
  description = "Folder with the program dindd of each architecture: x86_64/dindd, arm64/dindd."
  type        = string
  default     = "programs"
}

variable "storage_gib" {
  description = "Size of the storage volume that instances get; a launch template can name another."
  type        = number
  default     = 200
}

variable "registry_mirrors" {
  description = "Mirrors of Docker Hub for the host's own daemon, separated by commas."
  type        = string
  default     = ""
}

variable "new_relic" {
  description = "Whether New Relic's agent is installed: on or off."
  type        = string
  default     = "off"
}
