# Everything we stand on, found once. All of it is packaged by Debian 12 and 13 (tests/setup/install-deps).
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
# Boost's own package file: CMake 3.30 and later warn of the module that came with CMake.
find_package(Boost 1.81 CONFIG REQUIRED COMPONENTS json)
# No flat_hash_map and its kin: their layout depends on sanitizers (Abseil 2023 and later), and Debian's library has none.
find_package(absl REQUIRED)
find_package(spdlog REQUIRED)
find_package(OpenSSL 3.0 REQUIRED)
pkg_check_modules(TOMLPLUSPLUS REQUIRED IMPORTED_TARGET tomlplusplus)
pkg_check_modules(CLI11 REQUIRED IMPORTED_TARGET CLI11)
pkg_check_modules(PROMETHEUS REQUIRED IMPORTED_TARGET prometheus-cpp-core)
pkg_check_modules(SYSTEMD REQUIRED IMPORTED_TARGET libsystemd)
pkg_check_modules(NUMA REQUIRED IMPORTED_TARGET numa)
pkg_check_modules(UDEV REQUIRED IMPORTED_TARGET libudev)
pkg_check_modules(PUGIXML REQUIRED IMPORTED_TARGET pugixml)
pkg_check_modules(LIBVIRT REQUIRED libvirt)
add_library(LIBVIRT_HEADERS INTERFACE)  # it is loaded, not linked
target_include_directories(LIBVIRT_HEADERS SYSTEM INTERFACE ${LIBVIRT_INCLUDE_DIRS})
if(EVERPORT_DATAPATH)
  # Shared DPDK: PMDs are plug-ins that EAL loads from Debian's plug-in folder.
  pkg_check_modules(DPDK REQUIRED IMPORTED_TARGET libdpdk>=22.11.11)
endif()
if(BUILD_TESTING OR NOT DEFINED BUILD_TESTING)
  find_package(GTest REQUIRED)
endif()
