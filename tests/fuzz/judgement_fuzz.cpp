// Any bytes as a plugin file: the judge reads an ELF that it does not trust, within its bounds.
#include "core/plugin/judgement.h"

#include <gantry/error.hpp>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    try {
        (void)judge_plugin_elf(data, size, "/plugin.so");
    } catch (const Error &) {
        // refusing is the point
    }
    return 0;
}
