// See conntrack.h. One dump for each change of a UDP port (milliseconds for ten thousands of entries); a
// flow is deleted by its own tuple, so that nobody else's translation is disturbed.
#include "conntrack.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstring>
#include <gantry/plugin.hpp>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <netinet/in.h>

namespace gantry::bridge {

namespace {

constexpr uint16_t ct_type(uint16_t message) { return (NFNL_SUBSYS_CTNETLINK << 8) | message; }

struct Tuple {
    Address source, target;
    uint8_t protocol = 0;
    uint16_t source_port = 0, target_port = 0;
};

Address address_in(const Attribute &a, int family) {
    Address out;
    const size_t size = family == AF_INET6 ? 16 : 4;
    if (a.size < size) return out;
    out.family = family;
    std::memcpy(out.bytes.data(), a.data, size);
    return out;
}

uint16_t port_in(const Attribute &a) {
    uint16_t port = 0;
    if (a.size >= sizeof port) std::memcpy(&port, a.data, sizeof port);
    return ntohs(port);
}

Tuple tuple_in(const Attribute &tuple) {
    Tuple out;
    for_each_attribute(tuple.data, tuple.size, [&](const Attribute &part) {
        for_each_attribute(part.data, part.size, [&](const Attribute &a) {
            if (part.type == CTA_TUPLE_IP) {
                if (a.type == CTA_IP_V4_SRC) out.source = address_in(a, AF_INET);
                if (a.type == CTA_IP_V4_DST) out.target = address_in(a, AF_INET);
                if (a.type == CTA_IP_V6_SRC) out.source = address_in(a, AF_INET6);
                if (a.type == CTA_IP_V6_DST) out.target = address_in(a, AF_INET6);
            } else if (part.type == CTA_TUPLE_PROTO) {
                if (a.type == CTA_PROTO_NUM && a.size > 0) out.protocol = a.data[0];
                if (a.type == CTA_PROTO_SRC_PORT) out.source_port = port_in(a);
                if (a.type == CTA_PROTO_DST_PORT) out.target_port = port_in(a);
            }
        });
    });
    return out;
}

bool is_wrong(const Tuple &sent, const Tuple &answer, const std::vector<Forward> &removed,
              const std::vector<Forward> &added) {
    if (sent.protocol != IPPROTO_UDP) return false;
    const bool untranslated = sent.target == answer.source && sent.source == answer.target &&
                              sent.target_port == answer.source_port;
    return std::any_of(removed.begin(), removed.end(),
                       [&](const Forward &f) {
                           return f.protocol == IPPROTO_UDP && sent.target_port == f.host_port &&
                                  answer.source == f.target && answer.source_port == f.target_port;
                       }) ||
           std::any_of(added.begin(), added.end(), [&](const Forward &f) {
               // An untranslated flow to elsewhere is tracked anew by its next packet and loses nothing.
               return f.protocol == IPPROTO_UDP && untranslated && sent.target_port == f.host_port &&
                      (f.host.family == 0 || f.host == sent.target);
           });
}

} // namespace

Conntrack::Conntrack() {
    try {
        netlink_.emplace(NETLINK_NETFILTER);
    } catch (const Error &) {
        // a kernel without nfnetlink: the firewall says so
    }
}

void Conntrack::forget(const std::vector<Forward> &removed, const std::vector<Forward> &added) noexcept try {
    for (const int family : {AF_INET, AF_INET6}) {
        auto ours = [&](const Forward &f) {
            return f.protocol == IPPROTO_UDP && f.v6 == (family == AF_INET6);
        };
        if (!netlink_ || (std::none_of(removed.begin(), removed.end(), ours) &&
                          std::none_of(added.begin(), added.end(), ours)))
            continue;
        const nfgenmsg header{static_cast<uint8_t>(family), NFNETLINK_V0, 0};
        Batch dump, remove;
        dump.message(ct_type(IPCTNL_MSG_CT_GET), NLM_F_DUMP, header);
        netlink_->ask(dump, [&](uint16_t, const uint8_t *data, size_t size) {
            if (size < sizeof header) return;
            Tuple sent, answer;
            Attribute tuple, id, zone;
            for_each_attribute(data + sizeof header, size - sizeof header, [&](const Attribute &a) {
                if (a.type == CTA_TUPLE_ORIG) sent = tuple_in(a), tuple = a;
                if (a.type == CTA_TUPLE_REPLY) answer = tuple_in(a);
                if (a.type == CTA_ID) id = a;
                if (a.type == CTA_ZONE) zone = a;
            });
            if (!tuple.data || !is_wrong(sent, answer, removed, added)) return;
            remove.message(ct_type(IPCTNL_MSG_CT_DELETE), 0, header);
            remove.put(CTA_TUPLE_ORIG | NLA_F_NESTED, tuple.data, tuple.size);
            // The id: a flow that began anew meanwhile is a right one.
            if (id.data) remove.put(CTA_ID, id.data, id.size);
            if (zone.data) remove.put(CTA_ZONE, zone.data, zone.size);
        });
        netlink_->run(remove); // ENOENT: it ended by itself
    }
} catch (const std::exception &error) {
    plugin_host().log(GANTRY_LOG_DEBUG, std::string("forget UDP flows: ") + error.what());
}

} // namespace gantry::bridge
