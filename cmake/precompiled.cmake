# Precompiled headers: what most sources include, parsed once for each way in which it is compiled. They shorten a clean
# build and change nothing else: each source still includes what it uses, as the builds without them show (asan, tsan,
# fuzz, and any with ccache, which does not keep what was compiled with them).
option(EVERPORT_PCH "Use precompiled headers" OFF)

set(_everport_pch_plain
  <algorithm> <array> <atomic> <cerrno> <chrono> <cstdint> <cstdio> <cstdlib> <cstring> <deque> <filesystem> <fstream> <functional>
  <map> <memory> <mutex> <optional> <set> <span> <sstream> <string> <string_view> <thread> <utility> <vector>
  <absl/status/statusor.h> <absl/strings/match.h> <absl/strings/str_cat.h> <absl/strings/str_join.h>
  <absl/strings/str_split.h> <absl/time/clock.h> <absl/time/time.h>)
set(_everport_pch_dpdk <rte_ethdev.h> <rte_mbuf.h>)
set(_everport_pch_test <gmock/gmock.h> <gtest/gtest.h>)

# everport_precompiled(NAME KIND): the headers of KIND for the sources of NAME, after NAME was linked with what it needs.
# KIND: library; test (as a program is compiled, with GoogleTest), or unit_test (the same without optimisation).
function(everport_precompiled NAME KIND)
  if(NOT EVERPORT_PCH OR CMAKE_CXX_COMPILER_LAUNCHER MATCHES "ccache")
    return()
  endif()
  get_target_property(_links ${NAME} LINK_LIBRARIES)
  everport_reaches(_dpdk PkgConfig::DPDK ${_links})
  set(_from everport_pch_${KIND})
  if(_dpdk)
    string(APPEND _from _dpdk)
  endif()
  if(NOT TARGET ${_from})
    everport_pch_target(${_from} ${KIND} ${_dpdk})
  endif()
  target_precompile_headers(${NAME} REUSE_FROM ${_from})
endfunction()

# Sets OUT to whether a target is among the libraries given, or among those that ours of them bring with them.
function(everport_reaches OUT TARGET)
  set(${OUT} OFF PARENT_SCOPE)
  foreach(_library IN LISTS ARGN)
    if(_library STREQUAL TARGET)
      set(${OUT} ON PARENT_SCOPE)
      return()
    endif()
    if(_library MATCHES "^everport_" AND TARGET ${_library})
      get_target_property(_links ${_library} INTERFACE_LINK_LIBRARIES)
      everport_reaches(_found ${TARGET} ${_links})
      if(_found)
        set(${OUT} ON PARENT_SCOPE)
        return()
      endif()
    endif()
  endforeach()
endfunction()

function(everport_pch_target NAME KIND DPDK)
  set(_empty ${CMAKE_BINARY_DIR}/cmake/empty.cc)
  if(NOT EXISTS ${_empty})
    file(WRITE ${_empty} "")
  endif()
  set(_headers ${_everport_pch_plain})
  if(KIND MATCHES "test$")  # compiled as a program is: no other takes its headers
    add_executable(${NAME} ${_empty})
    target_link_libraries(${NAME} PRIVATE GTest::gmock GTest::gtest_main)
    list(APPEND _headers ${_everport_pch_test})
    if(KIND STREQUAL "unit_test")
      target_compile_options(${NAME} PRIVATE -O0)
    endif()
  else()
    add_library(${NAME} OBJECT ${_empty})
  endif()
  target_link_libraries(${NAME} PRIVATE everport_options)
  if(DPDK)
    target_link_libraries(${NAME} PRIVATE PkgConfig::DPDK)
    target_compile_definitions(${NAME} PRIVATE ALLOW_EXPERIMENTAL_API)
    get_target_property(_includes PkgConfig::DPDK INTERFACE_INCLUDE_DIRECTORIES)
    target_include_directories(${NAME} SYSTEM PRIVATE ${_includes})
    list(APPEND _headers ${_everport_pch_dpdk})
  endif()
  target_precompile_headers(${NAME} PRIVATE ${_headers})
endfunction()
