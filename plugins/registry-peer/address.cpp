#include "address.h"

#include <algorithm>
#include <cstring>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

namespace gantry::peer {

std::string Address::text() const {
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (::getnameinfo(reinterpret_cast<const sockaddr *>(&raw), size, host, sizeof host, port, sizeof port,
                      NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return "?";
    return (raw.ss_family == AF_INET6 ? "[" + std::string(host) + "]" : std::string(host)) + ":" + port;
}

HostPort parse_host_port(const std::string &text, const char *option) {
    const size_t colon = text.rfind(':');
    HostPort out{text.substr(0, std::min(colon, text.size())),
                 colon == std::string::npos ? "" : text.substr(colon + 1)};
    if (out.host.size() > 2 && out.host.front() == '[' && out.host.back() == ']')
        out.host = out.host.substr(1, out.host.size() - 2);
    else if (out.host.find(':') != std::string::npos)
        out.port.clear();
    const bool number = !out.port.empty() && out.port.size() <= 5 &&
                        out.port.find_first_not_of("0123456789") == std::string::npos &&
                        std::stoul(out.port) <= 65535;
    if (out.host.empty() || out.host.size() > 255 || !number)
        throw Error(ErrorClass::kInvalidArgument,
                    std::string("read option registry.peer.") + option + ": \"" + text + "\" is no HOST:PORT",
                    "write it as 10.0.0.1:7420, host.example:7420 or [2001:db8::1]:7420");
    return out;
}

std::vector<Address> addresses_of(const HostPort &where, bool numeric) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICSERV | (numeric ? AI_NUMERICHOST : AI_ADDRCONFIG);
    if (::getaddrinfo(where.host.c_str(), where.port.c_str(), &hints, &found) != 0) return {};
    std::vector<Address> out;
    for (const addrinfo *a = found; a && out.size() < 4; a = a->ai_next) {
        if (a->ai_addrlen > sizeof(sockaddr_storage)) continue;
        Address address;
        std::memcpy(&address.raw, a->ai_addr, a->ai_addrlen);
        address.size = a->ai_addrlen;
        out.push_back(address);
    }
    ::freeaddrinfo(found);
    return out;
}

UniqueFd listen_at(const std::string &where) {
    const std::string doing = "listen for peers at " + where;
    const auto addresses = addresses_of(parse_host_port(where, "listen"), true);
    if (addresses.empty())
        throw Error(ErrorClass::kInvalidArgument, doing + ": a numeric address is needed",
                    "registry.peer.listen is one address of this host, e.g. 10.0.0.1:7420");
    const Address &at = addresses[0];
    UniqueFd socket(::socket(at.raw.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int on = 1;
    if (!socket || ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        ::bind(socket.get(), reinterpret_cast<const sockaddr *>(&at.raw), at.size) != 0 ||
        ::listen(socket.get(), 64) != 0)
        throw Error::from_errno(errno, doing);
    return socket;
}

UniqueFd begin_connect(const Address &to) {
    UniqueFd socket(::socket(to.raw.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) throw Error::from_errno(errno, "connect to peer " + to.text());
    const int on = 1;
    (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); // questions are small
    if (::connect(socket.get(), reinterpret_cast<const sockaddr *>(&to.raw), to.size) != 0 &&
        errno != EINPROGRESS)
        throw Error::from_errno(errno, "connect to peer " + to.text());
    return socket;
}

} // namespace gantry::peer
