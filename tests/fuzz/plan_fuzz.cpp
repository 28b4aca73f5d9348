// Any bytes as a start plan: what valid() lets pass must be readable to its last string without a look beyond
// the end, for the shim reads it as root.
#include "core/runtime/plan.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry::plan;
    const auto *bytes = reinterpret_cast<const char *>(data);
    const bool whole = valid(bytes, size, true);
    if (!valid(bytes, size, false)) {
        if (whole) std::abort();
        return 0;
    }
    uint64_t sum = 0;
    for (uint32_t type = 0; type < kTypeEnd; ++type) {
        for (Cursor cursor(bytes, type); cursor.next();) {
            const View view = cursor.view();
            if (type != 0 && view.type() != type) std::abort();
            for (uint32_t i = 0; i <= view.numbers() && i < 100; ++i)
                sum += view.number(i);
            for (uint32_t i = 0; i <= view.strings() && i < 100; ++i) {
                uint32_t length = 0;
                const char *text = view.text(i, &length);
                if (text[length] != 0) std::abort();
                for (uint32_t at = 0; at < length; ++at)
                    sum += static_cast<unsigned char>(text[at]);
            }
        }
    }
    asm volatile("" : : "r"(sum)); // nothing above may be optimised away
    return 0;
}
