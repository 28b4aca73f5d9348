// What a driver's answer must hold, once it is in the engine's own memory. The proxies judge the C structs
// of a plugin in this process; this judges what a plugin's own process sent.
#pragma once

#include <gantry/network.hpp>
#include <gantry/registry.hpp>
#include <gantry/storage.hpp>

#include <string_view>

namespace gantry::wire {

[[noreturn]] inline void insane(const char *what) {
    throw Error(ErrorClass::kInternal, std::string("it ") + what);
}
inline void want(bool holds, const char *what) {
    if (!holds) insane(what);
}
inline bool climbs(const std::string &path) { return ("/" + path + "/").find("/../") != std::string::npos; }
inline bool has_zero(const std::string &text) { return text.find('\0') != std::string::npos; }

template <typename T> void sane(const T &) {}
inline void sane(const std::vector<Mount> &mounts) {
    want(!mounts.empty() && mounts.size() <= 1024, "gave no mount or too many");
    for (const Mount &m : mounts) {
        want(!m.type.empty() && m.options.size() <= 4096 && !climbs(m.target) && !has_zero(m.target) &&
                 !has_zero(m.source) && !has_zero(m.type),
             "gave an impossible mount");
        for (const std::string &option : m.options)
            want(!has_zero(option), "gave an impossible mount option");
    }
}
inline void sane(const Usage &u) {
    want(u.bytes <= INT64_MAX && u.inodes <= INT64_MAX, "gave an absurd size");
}
inline void sane(const std::vector<std::string> &list) {
    for (const std::string &text : list)
        want(!has_zero(text), "listed a name with a zero in it");
}
inline void sane(const Change &c) {
    want(!c.path.empty() && c.path[0] == '/' && !climbs(c.path) && !has_zero(c.path),
         "named an impossible change");
}
inline void sane(const std::vector<Subnet> &subnets) {
    want(subnets.size() <= 64, "settled too many subnets");
}
inline void sane(const EndpointInfo &i) {
    want(i.ipv4_prefix <= 32 && i.ipv6_prefix <= 128 && i.mtu <= 1u << 20, "settled an absurd endpoint");
    for (const std::string *text :
         {&i.ipv4, &i.ipv4_gateway, &i.ipv6, &i.ipv6_gateway, &i.mac, &i.host_interface})
        want(text->size() <= 64 && !has_zero(*text), "settled an absurd endpoint");
}
inline void sane(const std::vector<PortBinding> &ports) {
    want(ports.size() <= 65536, "settled too many ports");
    for (const PortBinding &p : ports)
        want(p.host_port != 0 && p.host_port == p.host_port_end && p.host_ip.size() <= 64 &&
                 !has_zero(p.host_ip),
             "left a port unsettled");
}
inline void sane(const Descriptor &d) {
    want(d.size <= INT64_MAX && d.media_type.size() <= 255 && d.digest.size() <= 255, "resolved to nonsense");
}

} // namespace gantry::wire
