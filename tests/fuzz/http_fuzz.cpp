// Any bytes on the API's socket: requests with their bodies, or the status of a refusal; then the next
// request of the same connection, for what one leaves unread is the start of another.
#include "core/api/http.h"

#include "core/api/dialect.h"

#include <gantry/error.hpp>

#include <cstdlib>
#include <sys/socket.h>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    using namespace gantry;
    using namespace gantry::api;
    if (size > 60000) return 0; // what a socket buffer holds: nobody reads the other end
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) std::abort();
    const UniqueFd client(ends[0]);
    UniqueFd server(ends[1]);
    if (::send(client.get(), data, size, MSG_NOSIGNAL) != static_cast<ssize_t>(size)) std::abort();
    ::shutdown(client.get(), SHUT_WR);
    HttpLimits limits;
    limits.header_bytes = 8192;
    limits.json_bytes = 16384;
    limits.header_timeout_ms = limits.idle_timeout_ms = limits.body_timeout_ms = 50;
    Connection connection(std::move(server), limits, nullptr);
    try {
        for (int i = 0; i < 4; ++i) {
            Request request;
            if (!connection.next(request)) break;
            if (request.body_text(limits.json_bytes).size() > limits.json_bytes) std::abort();
            (void)parse_query(request.target);
            (void)decode_credential(request.header("x-registry-auth"));
            if (!connection.finish(request)) break;
        }
    } catch (const HttpError &e) {
        if (e.status < 400 || e.status > 505) std::abort();
    } catch (const Error &) {
        // the credential
    }
    return 0;
}
