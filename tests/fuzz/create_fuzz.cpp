// Any bytes as the body of POST /containers/create, and the small languages inside of it.
#include "core/container/config.h"
#include "core/container/parse.h"

#include <gantry/error.hpp>

#include <string>

namespace {

template <typename F> void refusable(F &&work) {
    try {
        work();
    } catch (const gantry::Error &) {
        // refusing is the point
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    const std::string text(reinterpret_cast<const char *>(data), size);
    refusable([&] {
        const ContainerConfig config = parse_container_config(text);
        refusable([&] { check_modes(config); });
        refusable([&] { check_sysctls(config); });
        refusable([&] { (void)port_bindings(config); });
    });
    if (size > 4096) return 0;
    refusable([&] { (void)parse_bind(text); });
    refusable([&] { (void)clean_path(text); });
    refusable([&] { check_tmpfs_options(text); });
    refusable([&] { (void)expand_container_port(text); });
    refusable([&] { (void)parse_host_ports(text); });
    refusable([&] { (void)parse_signal(text); });
    refusable([&] { (void)parse_bytes(text); });
    refusable([&] { (void)parse_device_rule(text); });
    refusable([&] { (void)parse_security_options({text}); });
    refusable([&] { (void)merge_capabilities({text}, {text}, false); });
    // The image's own files are as untrusted as the request.
    refusable([&] { (void)resolve_user("user:group", {"extra"}, text, text); });
    refusable([&] { (void)resolve_user(text, {text}, "user:x:1:1::/:", "group:x:1:"); });
    return 0;
}
