// Arguments of a call as the plugin's process rebuilds them: values from the request, and stand-ins for what
// stayed with the caller, which ask through the channel.
#pragma once

#include "core/plugin/wire.h"

#include <mutex>

namespace gantry::isolated {

/// A call that is served on its channel. The plugin may use its sinks, log and progress from several
/// threads at once.
class Service {
  public:
    explicit Service(wire::Channel channel) : channel_(std::move(channel)) {}
    wire::Channel &channel() noexcept { return channel_; }

    void tell(wire::Kind kind, std::string_view body) {
        const std::lock_guard lock(mutex_);
        channel_.send(kind, body, 0);
    }
    /// Hands an item over; throws when the receiver has had enough.
    std::string exchange(std::string_view body) {
        const std::lock_guard lock(mutex_);
        channel_.send(wire::Kind::kItem, body, 0);
        wire::Frame reply = channel_.receive(0);
        if (reply.kind == wire::Kind::kStop)
            throw Error(ErrorClass::kCancelled, "hand over results: the receiver stopped");
        if (reply.kind != wire::Kind::kReply) throw wire::Decoder::torn();
        return std::move(reply.body);
    }

  private:
    wire::Channel channel_;
    std::mutex mutex_;
};

template <typename T> struct Rebuilt {
    T value{};
    Rebuilt(Service &, wire::Decoder &in, std::vector<UniqueFd> &) { in(value); }
    const T &get() { return value; }
    void finish() {}
};
template <> struct Rebuilt<EndpointSpec> {
    EndpointSpec value;
    UniqueFd netns;
    Rebuilt(Service &, wire::Decoder &in, std::vector<UniqueFd> &fds) {
        in(value);
        if (!in.get<bool>()) return;
        if (fds.empty()) throw wire::Decoder::torn();
        netns = std::move(fds.front());
        fds.erase(fds.begin());
        value.netns_fd = netns.get();
    }
    const EndpointSpec &get() { return value; }
    void finish() {}
};
/// Changes are small and many: they travel in heaps.
template <> struct Rebuilt<std::function<void(const Change &)>> {
    Service &service;
    std::mutex mutex;
    std::vector<Change> heap;
    int64_t sent_ns = Call::now_ns();
    std::function<void(const Change &)> value;
    Rebuilt(Service &s, wire::Decoder &, std::vector<UniqueFd> &) : service(s) {
        value = [this](const Change &change) {
            const std::lock_guard lock(mutex);
            heap.push_back(change);
            if (heap.size() >= 64 || Call::now_ns() - sent_ns > 50000000) flush();
        };
    }
    const std::function<void(const Change &)> &get() { return value; }
    void finish() {
        const std::lock_guard lock(mutex);
        flush();
    }
    void flush() {
        if (heap.empty()) return;
        wire::Encoder out;
        out(heap);
        heap.clear();
        service.exchange(out.out);
        sent_ns = Call::now_ns();
    }
};
template <> struct Rebuilt<BlobSink> {
    BlobSink value;
    Rebuilt(Service &service, wire::Decoder &, std::vector<UniqueFd> &) {
        value = [&service](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
            for (size_t sent = 0; sent < size;) {
                const size_t part = std::min(size - sent, wire::kBytesLimit);
                wire::Encoder out;
                out(endpoint);
                out(at + sent);
                out(std::string_view(static_cast<const char *>(data) + sent, part));
                service.exchange(out.out);
                sent += part;
            }
        };
    }
    const BlobSink &get() { return value; }
    void finish() {}
};
template <> struct Rebuilt<BlobSource> {
    BlobSource value;
    Rebuilt(Service &service, wire::Decoder &, std::vector<UniqueFd> &) {
        value = [&service](uint64_t at, void *buffer, size_t size) -> size_t {
            wire::Encoder out;
            out(at);
            out(uint64_t(std::min(size, wire::kBytesLimit)));
            const std::string reply = service.exchange(out.out);
            wire::Decoder in(reply);
            const std::string_view data = in.view(std::min(size, wire::kBytesLimit));
            std::memcpy(buffer, data.data(), data.size());
            return data.size();
        };
    }
    const BlobSource &get() { return value; }
    void finish() {}
};
template <> struct Rebuilt<std::string *> {
    Service &service;
    bool wanted;
    std::string value;
    Rebuilt(Service &s, wire::Decoder &in, std::vector<UniqueFd> &) : service(s), wanted(in.get<bool>()) {}
    std::string *get() { return wanted ? &value : nullptr; }
    void finish() {
        for (size_t sent = 0; sent < value.size();) {
            wire::Encoder out;
            const std::string_view part = std::string_view(value).substr(sent, wire::kBytesLimit);
            out(part);
            service.exchange(out.out);
            sent += part.size();
        }
    }
};

} // namespace gantry::isolated
