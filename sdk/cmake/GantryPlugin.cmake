# gantry_add_plugin(<target> SOURCES ... [LIBS ...]): a shared object that exports gantry_plugin_entry
# and nothing else; undefined symbols fail the link.
function(gantry_add_plugin target)
  cmake_parse_arguments(arg "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${target} MODULE ${arg_SOURCES})
  set_target_properties(${target} PROPERTIES PREFIX "" CXX_VISIBILITY_PRESET hidden
    C_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  if(GANTRY_PLUGIN_DIR)
    set_target_properties(${target} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${GANTRY_PLUGIN_DIR})
  endif()
  target_link_libraries(${target} PRIVATE ${arg_LIBS})
  target_link_options(${target} PRIVATE -Wl,--version-script=${CMAKE_CURRENT_FUNCTION_LIST_DIR}/plugin.map)
  # Clang's sanitizer runtimes live in the executable alone.
  if(NOT GANTRY_SANITIZE OR NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_link_options(${target} PRIVATE -Wl,-z,defs)
  endif()
  if(COMMAND gantry_install_plugin)
    gantry_install_plugin(${target})
  endif()
endfunction()
