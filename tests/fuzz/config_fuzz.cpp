// Any bytes as a configuration file: a tree or an Error that names a place, and what is shown of a value can
// be read again.
#include "core/config/judge.h"
#include "core/config/tree.h"

#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    const std::string text(reinterpret_cast<const char *>(data), size);
    try {
        Node tree = parse_document(text, "f.toml");
        Node twin = parse_document(text, "f.toml");
        merge(tree, std::move(twin));
    } catch (const Error &e) {
        if (e.error_class() != ErrorClass::kInvalidArgument) throw;
    }
    try {
        (void)import_docker_config(text, "daemon.json");
    } catch (const Error &) {
        // refusing is the point
    }
    int64_t value = 0, again = 0;
    if (parse_duration(text, value) && (!parse_duration(format_duration(value), again) || value != again))
        std::abort();
    if (parse_size(text, value) && (!parse_size(format_size(value), again) || value != again)) std::abort();
    try {
        if (parse_value(quote(text), "q").s != text) std::abort();
    } catch (const Error &) {
        // no TOML string holds a zero byte or what is no UTF-8
    }
    return 0;
}
