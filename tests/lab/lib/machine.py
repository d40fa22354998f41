"""The lab VM's hardware: the host makes it so, and tests in the VM name its parts. See README.md for the picture."""

NODES = 2
CPUS_PER_NODE = 2
MEMORY_PER_NODE_MB = 2048
HUGEPAGES_PER_NODE = 256  # of 2 MB

# QEMU's -device options by id, as device_add takes them. Each sits alone behind a root port and can be unplugged.
NICS = {
    "nic0": "igb,id=nic0,bus=slot0,netdev=wire0,mac=52:54:00:1a:b0:00",             # SR-IOV: up to 7 VFs
    "nic1": "virtio-net-pci,id=nic1,bus=slot1,netdev=wire1,mac=52:54:00:1a:b1:00",  # the other end of nic0's wire
}


def mac_of(nic):
    return NICS[nic].split("mac=")[1].split(",")[0]
