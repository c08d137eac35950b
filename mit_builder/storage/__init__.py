"""What lies in a workspace and who may change it. The only door to disks and buckets."""
