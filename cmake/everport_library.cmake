# everport_library(NAME SOURCES … DEPS …): a static library with our warnings; DEPS are PUBLIC, and are all it may include.
# everport_program(NAME SOURCES … DEPS …), everport_test(NAME LABEL unit|component SOURCES … DEPS … [PROPERTIES …]) likewise.
add_library(everport_options INTERFACE)
target_compile_features(everport_options INTERFACE cxx_std_20)
target_compile_options(everport_options INTERFACE
  -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual -Wcast-qual -Werror -fno-omit-frame-pointer)
# GCC 12 sees bounds and uninitialised values in library templates (Asio, fmt, std::regex) that are not there.
target_compile_options(everport_options INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-stringop-overread -Wno-array-bounds -Wno-stringop-overflow>)
target_include_directories(everport_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(everport_options INTERFACE EVERPORT_VERSION="${PROJECT_VERSION}")
if(EVERPORT_SANITIZE)
  string(REPLACE ";" "," _everport_sanitize "${EVERPORT_SANITIZE}")
  add_compile_options(-fsanitize=${_everport_sanitize} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${_everport_sanitize})
  if(_everport_sanitize MATCHES "thread")
    # std::atomic_thread_fence is not modelled. Asio's, RCU's and the fakes' fences come beside atomics, which are.
    add_compile_options(-Wno-tsan)
  else()
    # That check opens a pipe for each object it looks at, and lies in a program that is out of descriptors.
    add_compile_options(-fno-sanitize=vptr)
  endif()
endif()
if(EVERPORT_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

function(everport_library NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${NAME} STATIC ${ARG_SOURCES})
  target_link_libraries(${NAME} PUBLIC everport_options ${ARG_DEPS})
  everport_precompiled(${NAME} library)
endfunction()

function(everport_program NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${NAME} ${ARG_SOURCES})
  target_link_libraries(${NAME} PRIVATE everport_options ${ARG_DEPS})
  set_target_properties(${NAME} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
endfunction()

# A sanitized test and the programs it starts: five times the time, fewer kills (a start takes seconds), and suppressions,
# which are for libraries that are not ours.
function(everport_sanitized_test NAME)
  if(NOT EVERPORT_SANITIZE)
    return()
  endif()
  get_test_property(${NAME} TIMEOUT _timeout)
  math(EXPR _timeout "5 * ${_timeout}")
  set_tests_properties(${NAME} PROPERTIES TIMEOUT ${_timeout})
  set_property(TEST ${NAME} APPEND PROPERTY ENVIRONMENT_MODIFICATION
    "EVERPORT_KILL_POINTS=set:128"
    # The longest history: else the other side of a race is often not known any more.
    "TSAN_OPTIONS=set:suppressions=${PROJECT_SOURCE_DIR}/tests/tsan.supp,history_size=7"
    "LSAN_OPTIONS=set:suppressions=${PROJECT_SOURCE_DIR}/tests/lsan.supp,print_suppressions=0"
    "UBSAN_OPTIONS=set:print_stacktrace=1")
endfunction()

function(everport_test NAME)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;DEPS;PROPERTIES" ${ARGN})
  add_executable(${NAME} ${ARG_SOURCES})
  target_link_libraries(${NAME} PRIVATE everport_options ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  # Unit tests compile half as long without optimisation, and have nothing to be quick about.
  if(ARG_LABEL STREQUAL "unit" AND NOT EVERPORT_SANITIZE)
    target_compile_options(${NAME} PRIVATE -O0)
    everport_precompiled(${NAME} unit_test)
  else()
    everport_precompiled(${NAME} test)
  endif()
  add_test(NAME ${NAME} COMMAND ${NAME})
  set_tests_properties(${NAME} PROPERTIES LABELS "${ARG_LABEL}" TIMEOUT 120 ${ARG_PROPERTIES})
  # What fails is to be seen in a log that somebody cuts, not what passes.
  set_property(TEST ${NAME} APPEND PROPERTY ENVIRONMENT_MODIFICATION "GTEST_BRIEF=set:1")
  everport_sanitized_test(${NAME})
endfunction()
