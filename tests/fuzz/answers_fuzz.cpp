// Any bytes as a registry's answer: headers that lead clients on (challenges, links, places of uploads,
// ranges, times to wait) and a config.json. What comes out never leads from https to http, and is sound or an
// Error.
#include "plugins/registry-oci/auth.h"
#include "plugins/registry-oci/credentials.h"
#include "plugins/registry-oci/oci_driver.h"
#include "plugins/registry-oci/oci_push.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    using namespace gantry::oci;
    const auto demand = [](bool condition) {
        if (!condition) std::abort();
    };
    // Lines, as headers are.
    const std::string text(reinterpret_cast<const char *>(data), size);
    HttpResponse response;
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        response.headers.emplace_back("www-authenticate", text.substr(at, end - at));
        at = end + 1;
    }
    if (const auto challenge = parse_challenge(response))
        demand(challenge->scheme == "bearer" || challenge->scheme == "basic");
    for (const auto &[name, line] : response.headers) {
        const std::string next = next_link(line);
        demand(next.size() <= line.size());
        if (const auto has = uploaded_bytes(line)) demand(*has <= uint64_t(INT64_MAX) + 1);
        demand(parse_retry_after(line, 1'700'000'000) >= 0);
        const std::string server = normal_server(line);
        demand(normal_server(server) == server || server.find("://") != server.npos);
        for (const char *from :
             {"https://registry.example:5000/v2/a/b/blobs/uploads/", "http://127.0.0.1:5000/v2/"})
            try {
                const std::string place = resolve_location(from, line);
                demand(place.starts_with("https://") || (from[4] == ':' && place.starts_with("http://")));
                demand(place.find_first_of("\r\n") == place.npos);
                demand(with_digest(place, "sha256:x").find("digest=sha256%3Ax") != std::string::npos);
            } catch (const Error &error) {
                demand(error.error_class() == ErrorClass::kUnavailable);
            }
    }
    try {
        find_in_config_json(text, "registry.example:5000");
    } catch (const Error &error) {
        demand(error.error_class() == ErrorClass::kFailedPrecondition);
    }
    return 0;
}
