// What goes between the engine and a plugin's own process: frames of at most 8 MiB on a stream socket, one
// call at a time on each; numbers as eight little-endian bytes, strings with their length. Both ends come
// from one build, so there is no versioning; but the plugin shares the other end's memory and may have
// torn it, so the reader believes no length and no number.
#pragma once

#include "core/base/fd.h"

#include <gantry/network.hpp>
#include <gantry/registry.hpp>
#include <gantry/storage.hpp>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

namespace gantry::wire {

constexpr uint32_t kFrameLimit = 8u << 20;
constexpr size_t kTextLimit = 65536, kBytesLimit = 1u << 20;

enum class Kind : uint32_t {
    kRequest = 1, // operation, call, arguments
    kItem,        // something for a sink, or a question to a source; answered by kReply or kStop
    kReply,
    kStop, // the sink wants no more
    kLog,
    kProgress,
    kResult, // ends the call
    kFailure,
    // On the services' socket.
    kKvGet,
    kKvApply,
    kKvList,
    kCount,
    kGauge,
    kBlobOpen // its reply brings a descriptor
};

template <typename T> constexpr uint64_t kLargest = 0;
template <> inline constexpr uint64_t kLargest<gantry_type> = GANTRY_TYPE_MAP;
template <> inline constexpr uint64_t kLargest<gantry_whiteout> = GANTRY_WHITEOUT_AUFS;
template <> inline constexpr uint64_t kLargest<gantry_change_kind> = GANTRY_CHANGE_DELETED;
template <> inline constexpr uint64_t kLargest<gantry_protocol> = GANTRY_SCTP;

class Encoder {
  public:
    std::string out;

    template <typename T>
    requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void operator()(T value) {
        uint64_t raw = 0;
        if constexpr (std::is_floating_point_v<T>)
            std::memcpy(&raw, &value, sizeof value);
        else
            raw = static_cast<uint64_t>(value);
        out.append(reinterpret_cast<const char *>(&raw), sizeof raw);
    }
    void operator()(std::string_view text) {
        (*this)(uint64_t(text.size()));
        out.append(text);
    }
    void operator()(const std::string &text) { (*this)(std::string_view(text)); }
    void operator()(const char *) = delete;
    template <typename T> void operator()(const std::vector<T> &list) {
        (*this)(uint64_t(list.size()));
        for (const T &item : list)
            (*this)(item);
    }
    template <typename T> void operator()(const std::optional<T> &value) {
        (*this)(value.has_value());
        if (value) (*this)(*value);
    }
    template <typename A, typename B> void operator()(const std::pair<A, B> &p) {
        (*this)(p.first);
        (*this)(p.second);
    }
    template <typename T>
    requires std::is_class_v<T>
    void operator()(const T &value) { fields(*this, const_cast<T &>(value)); }
};

class Decoder {
  public:
    explicit Decoder(std::string_view in) : in_(in) {}

    template <typename T>
    requires(std::is_arithmetic_v<T>) void operator()(T &value) {
        const uint64_t raw = number();
        if constexpr (std::is_floating_point_v<T>)
            std::memcpy(&value, &raw, sizeof value);
        else if constexpr (std::is_same_v<T, bool>)
            value = raw != 0;
        else {
            value = static_cast<T>(raw);
            if (static_cast<uint64_t>(value) != raw) throw torn();
        }
    }
    template <typename T>
    requires(std::is_enum_v<T>) void operator()(T &value) {
        const uint64_t raw = number(); // an enumeration must never hold what its type cannot
        if (raw > kLargest<T>) throw torn();
        value = static_cast<T>(raw);
    }
    void operator()(std::string &text) { text = std::string(view(kTextLimit)); }
    template <typename T> void operator()(std::vector<T> &list) {
        const uint64_t count = number();
        if (count > in_.size() / sizeof(uint64_t)) throw torn(); // nothing takes less than a number
        list.clear();
        list.reserve(std::min<uint64_t>(count, 1024));
        for (uint64_t i = 0; i < count; ++i)
            (*this)(list.emplace_back());
    }
    template <typename T> void operator()(std::optional<T> &value) {
        bool there = false;
        (*this)(there);
        value.reset();
        if (there) (*this)(value.emplace());
    }
    template <typename A, typename B> void operator()(std::pair<A, B> &p) {
        (*this)(p.first);
        (*this)(p.second);
    }
    template <typename T>
    requires std::is_class_v<T>
    void operator()(T &value) { fields(*this, value); }
    template <typename T> T get() {
        T value{};
        (*this)(value);
        return value;
    }
    std::string_view view(size_t limit) {
        const uint64_t size = number();
        if (size > limit || size > in_.size()) throw torn();
        const std::string_view text = in_.substr(0, size);
        in_.remove_prefix(size);
        return text;
    }
    void end() const {
        if (!in_.empty()) throw torn();
    }
    static Error torn() { return {ErrorClass::kInternal, "read message: it is malformed"}; }

  private:
    uint64_t number() {
        if (in_.size() < sizeof(uint64_t)) throw torn();
        uint64_t raw = 0;
        std::memcpy(&raw, in_.data(), sizeof raw);
        in_.remove_prefix(sizeof raw);
        return raw;
    }
    std::string_view in_;
};

template <typename A, typename... T> void all(A &a, T &...values) { (a(values), ...); }

template <typename A> void fields(A &a, Mount &v) {
    all(a, v.type, v.source, v.target, v.options, v.read_only);
}
template <typename A> void fields(A &a, StorageCaps &v) {
    all(a, v.whiteout, v.independent_layers, v.idmapped, v.quota, v.reflink, v.max_parents);
}
template <typename A> void fields(A &a, Usage &v) { all(a, v.bytes, v.inodes); }
template <typename A> void fields(A &a, Change &v) { all(a, v.kind, v.path); }
template <typename A> void fields(A &a, NetworkCaps &v) {
    all(a, v.ports, v.ipv6, v.internal, v.multiple, v.static_address);
}
template <typename A> void fields(A &a, Subnet &v) { all(a, v.cidr, v.gateway, v.range); }
template <typename A> void fields(A &a, NetworkSpec &v) {
    all(a, v.id, v.name, v.subnets, v.internal, v.ipv6, v.options, v.mtu);
}
/// Without the descriptor, which travels beside the bytes.
template <typename A> void fields(A &a, EndpointSpec &v) {
    all(a, v.id, v.network_id, v.interface_name, v.ipv4, v.ipv6, v.mac, v.hostname, v.options);
}
template <typename A> void fields(A &a, EndpointInfo &v) {
    all(a, v.ipv4, v.ipv4_gateway, v.ipv6, v.ipv6_gateway, v.mac, v.host_interface, v.ipv4_prefix,
        v.ipv6_prefix, v.mtu);
}
template <typename A> void fields(A &a, PortBinding &v) {
    all(a, v.protocol, v.host_ip, v.host_port, v.host_port_end, v.container_port);
}
template <typename A> void fields(A &a, EndpointState &v) { all(a, v.spec, v.info, v.ports); }
template <typename A> void fields(A &a, NetworkStats &v) {
    all(a, v.rx_bytes, v.rx_packets, v.rx_errors, v.rx_dropped, v.tx_bytes, v.tx_packets, v.tx_errors,
        v.tx_dropped);
}
template <typename A> void fields(A &a, RegistryReference &v) {
    all(a, v.registry, v.repository, v.tag, v.digest);
}
template <typename A> void fields(A &a, Credential &v) {
    all(a, v.server, v.username, v.password, v.identity_token, v.registry_token);
}
template <typename A> void fields(A &a, Descriptor &v) { all(a, v.media_type, v.digest, v.size, v.endpoint); }
template <typename A> void fields(A &a, Fetch &v) {
    all(a, v.from, v.descriptor, v.offset, v.length, v.avoid, v.credential, v.is_manifest);
}
template <typename A> void fields(A &a, Push &v) {
    all(a, v.to, v.descriptor, v.credential, v.mount_from, v.is_manifest);
}
template <typename A> void fields(A &a, SearchResult &v) {
    all(a, v.name, v.description, v.stars, v.official, v.automated);
}
template <typename A> void fields(A &a, EndpointLine &v) {
    all(a, v.url, v.role, v.state, v.reason, v.can_pull, v.can_resolve, v.can_push, v.registry, v.latency_ns,
        v.bytes_per_second, v.bytes_served, v.successes, v.failures, v.resting_ns);
}

/// Options of a driver.
void encode(Encoder &out, const gantry_value &value);
std::shared_ptr<const gantry_value> decode_value(Decoder &in);

/// An error that crosses whole.
void encode(Encoder &out, const Error &error);
Error decode_error(Decoder &in);

struct Frame {
    Kind kind = Kind::kResult;
    std::string body;
    std::vector<UniqueFd> fds;
};

/// One end of a stream of frames. Not thread-safe.
class Channel {
  public:
    Channel() = default;
    explicit Channel(UniqueFd socket) : socket_(std::move(socket)) {}
    int fd() const noexcept { return socket_.get(); }
    explicit operator bool() const noexcept { return static_cast<bool>(socket_); }

    /// Both: `deadline_ns` of CLOCK_MONOTONIC, 0 for none. kUnavailable when the other end is gone,
    /// kDeadline when the time is over; the channel is of no use then.
    void send(Kind kind, std::string_view body, int64_t deadline_ns, const std::vector<int> &fds = {});
    Frame receive(int64_t deadline_ns);

    static std::pair<UniqueFd, UniqueFd> pair();

  private:
    UniqueFd socket_;
};

} // namespace gantry::wire
