// "host:port" and "[2001:db8::1]:port", and the sockets behind them.
#pragma once

#include <gantry/fd.hpp>

#include <string>
#include <sys/socket.h>
#include <vector>

namespace gantry::peer {

struct Address {
    sockaddr_storage raw{};
    socklen_t size = 0;
    std::string text() const; // numeric
};

struct HostPort {
    std::string host, port;
};
/// Throws kInvalidArgument; `option` names the key it came from.
HostPort parse_host_port(const std::string &text, const char *option);

/// Addresses of a host; only numeric ones when `numeric`, which never blocks. Empty: none is known.
std::vector<Address> addresses_of(const HostPort &where, bool numeric);

/// A non-blocking socket that listens there.
UniqueFd listen_at(const std::string &where);
/// A non-blocking socket that connects; done when it becomes writable.
UniqueFd begin_connect(const Address &to);

} // namespace gantry::peer
