"""The lab has SR-IOV: VFs under vfio-pci that DPDK drives, with a link that the host can take away."""

from e2e.lib.process import wait_until
from lab.lib.monitor import link_down
from lab.lib.sriov import Pf
from lab.lib.testpmd import Testpmd


def test_vfs_are_isolated_and_see_the_link():
    with Pf() as pf:
        first, second = pf.make_vfs(2, driver="vfio-pci")
        assert first.driver == second.driver == "vfio-pci"
        assert len({pf.iommu_group, first.iommu_group, second.iommu_group}) == 3
        with Testpmd("vfs", pci=[first.address, second.address]) as testpmd:
            assert first.mac in testpmd.command("show port info 0").lower()
            wait_until(testpmd.link_up, 10, "the VF's link is up")
            with link_down("nic0"):
                wait_until(lambda: not testpmd.link_up(), 10, "the VF sees that the link is gone")
            wait_until(testpmd.link_up, 10, "the VF sees the link again")
    assert pf.vf_count == 0
