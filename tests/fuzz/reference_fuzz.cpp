// Any bytes as an image reference: parts that make the same reference again, or an Error.
#include "core/image/images.h"

#include <gantry/error.hpp>

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    const std::string text(reinterpret_cast<const char *>(data), size);
    try {
        const ImageReference ref = parse_reference(text, "docker.io", true);
        if (ref.registry.empty() || ref.repository.empty() || (ref.tag.empty() && ref.digest.empty()))
            std::abort();
        std::string full = ref.registry + "/" + ref.repository;
        if (!ref.tag.empty()) full += ":" + ref.tag;
        if (!ref.digest.empty()) full += "@" + ref.digest;
        const ImageReference again = parse_reference(full, "example.com", true);
        if (again.registry != ref.registry || again.repository != ref.repository || again.tag != ref.tag ||
            again.digest != ref.digest)
            std::abort();
    } catch (const Error &e) {
        if (e.error_class() != ErrorClass::kInvalidArgument) throw;
    }
    return 0;
}
