#include "tests/support/fault_registry.h"

#include "core/content/content.h"

#include <algorithm>
#include <arpa/inet.h>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <netinet/in.h>
#include <set>
#include <stdexcept>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <zstd.h>

namespace {

constexpr size_t kChunk = 32 << 10;

std::string noise(size_t size, uint64_t seed) {
    std::string out(size, '\0');
    uint64_t x = seed * 0x9e3779b97f4a7c15ull + 1;
    for (size_t i = 0; i < size; i += 8) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        std::memcpy(out.data() + i, &x, std::min<size_t>(8, size - i));
    }
    return out;
}

std::string tar_of(const std::vector<FaultFile> &files) {
    std::string out;
    for (const FaultFile &file : files) {
        char head[512] = {};
        std::snprintf(head, 100, "%s", file.path.c_str());
        std::snprintf(head + 100, 8, "%07o", 0644);
        std::snprintf(head + 108, 8, "%07o", 0);
        std::snprintf(head + 116, 8, "%07o", 0);
        std::snprintf(head + 124, 12, "%011zo", file.size);
        std::snprintf(head + 136, 12, "%011o", 1700000000);
        std::memset(head + 148, ' ', 8);
        head[156] = '0';
        std::memcpy(head + 257, "ustar\00000", 8);
        unsigned sum = 0;
        for (const char c : head)
            sum += static_cast<unsigned char>(c);
        std::snprintf(head + 148, 8, "%06o", sum);
        out.append(head, sizeof head);
        out += noise(file.size, file.seed);
        out.append((512 - file.size % 512) % 512, '\0');
    }
    return out.append(1024, '\0');
}

struct TokenBucket {
    std::mutex mutex;
    uint64_t rate = 0;
    std::chrono::steady_clock::time_point due{};
    void take(size_t bytes) {
        std::chrono::steady_clock::time_point until;
        {
            const std::lock_guard lock(mutex);
            if (rate == 0) return;
            due = std::max(due, std::chrono::steady_clock::now() - std::chrono::milliseconds(20));
            due += std::chrono::nanoseconds(static_cast<int64_t>(double(bytes) * 1e9 / double(rate)));
            until = due;
        }
        std::this_thread::sleep_until(until);
    }
};

bool send_all(int fd, const char *data, size_t size) {
    while (size > 0) {
        const ssize_t n = ::send(fd, data, size, MSG_NOSIGNAL);
        if (n <= 0) return false;
        data += n;
        size -= static_cast<size_t>(n);
    }
    return true;
}

} // namespace

uint64_t FaultImage::layer_bytes() const {
    uint64_t out = 0;
    for (const auto &digest : std::set<std::string>(layers.begin(), layers.end()))
        out += blobs.at(digest).size();
    return out;
}

FaultImage make_fault_image(const std::string &repository, const std::vector<std::vector<FaultFile>> &layers,
                            bool zstd) {
    FaultImage image;
    image.repository = repository;
    image.tag = "v1";
    const auto keep = [&](std::string bytes) {
        const std::string digest = gantry::sha256_of(bytes);
        const std::string out = "\"digest\":\"" + digest + "\",\"size\":" + std::to_string(bytes.size());
        image.blobs[digest] = std::move(bytes);
        return std::pair(digest, out);
    };
    std::string diff_ids, descriptors;
    for (const auto &files : layers) {
        std::string tar = tar_of(files);
        diff_ids += (diff_ids.empty() ? "\"" : ",\"") + gantry::sha256_of(tar) + "\"";
        if (zstd) {
            std::string packed(ZSTD_compressBound(tar.size()), '\0');
            packed.resize(ZSTD_compress(packed.data(), packed.size(), tar.data(), tar.size(), 1));
            tar = std::move(packed);
        }
        const auto [digest, text] = keep(std::move(tar));
        image.layers.push_back(digest);
        descriptors +=
            (descriptors.empty() ? "" : ",") + ("{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar" +
                                                std::string(zstd ? "+zstd" : "") + "\"," + text + "}");
    }
    const auto config =
        keep(R"({"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[)" +
             diff_ids + "]}}");
    image.manifest =
        R"({"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":)"
        R"({"mediaType":"application/vnd.oci.image.config.v1+json",)" +
        config.second + "},\"layers\":[" + descriptors + "]}";
    image.manifest_digest = gantry::sha256_of(image.manifest);
    return image;
}

struct FaultRegistry::Impl {
    FaultImage image;
    Script script;
    int listener = -1;
    uint16_t port = 0;
    TokenBucket bucket;
    std::atomic<bool> stopping{false}, dead{false};
    std::atomic<uint64_t> served{0};
    std::atomic<int> requests{0}, answering{0}, most{0}, token_life{0};
    std::thread accepter;
    std::mutex mutex;
    std::set<int> open;
    std::vector<std::thread> threads;
    std::map<std::string, int> asked;
    std::string token;
    int token_number = 0, token_left = 0;

    void accept_all();
    void serve(int fd);
    bool answer(int fd, const std::string &path, const std::map<std::string, std::string> &headers);
    bool blob(int fd, const std::string &digest, const std::string &range);
    bool authorized(const std::string &given) {
        if (token_life == 0) return true;
        const std::lock_guard lock(mutex);
        return !token.empty() && given == "Bearer " + token && token_left-- > 0;
    }
    bool reply(int fd, int status, const std::string &headers, const std::string &body) {
        const std::string out = "HTTP/1.1 " + std::to_string(status) +
                                " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" + headers +
                                "\r\n" + body;
        return send_all(fd, out.data(), out.size());
    }
    bool is_layer(const std::string &digest) const {
        return std::find(image.layers.begin(), image.layers.end(), digest) != image.layers.end();
    }
};

FaultRegistry::FaultRegistry(FaultImage image, Script script) : impl_(std::make_unique<Impl>()) {
    impl_->image = std::move(image);
    impl_->script = std::move(script);
    impl_->listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(impl_->listener, reinterpret_cast<sockaddr *>(&address), size) != 0 ||
        ::listen(impl_->listener, 64) != 0 ||
        ::getsockname(impl_->listener, reinterpret_cast<sockaddr *>(&address), &size) != 0)
        throw std::runtime_error("listen on loopback");
    impl_->port = ntohs(address.sin_port);
    impl_->accepter = std::thread([this] { impl_->accept_all(); });
}

FaultRegistry::~FaultRegistry() {
    impl_->stopping = true;
    impl_->bucket.rate = 0;
    ::shutdown(impl_->listener, SHUT_RDWR);
    impl_->accepter.join();
    die();
    for (auto &thread : impl_->threads)
        thread.join();
    ::close(impl_->listener);
}

std::string FaultRegistry::host() const { return "127.0.0.1:" + std::to_string(impl_->port); }
std::string FaultRegistry::url() const { return "http://" + host(); }
std::string FaultRegistry::name() const {
    return host() + "/" + impl_->image.repository + ":" + impl_->image.tag;
}
void FaultRegistry::throttle(uint64_t bytes_per_second) {
    const std::lock_guard lock(impl_->bucket.mutex);
    impl_->bucket.rate = bytes_per_second;
}
void FaultRegistry::expire_tokens_after(int requests) { impl_->token_life = requests; }
void FaultRegistry::die() {
    impl_->dead = true;
    const std::lock_guard lock(impl_->mutex);
    for (const int fd : impl_->open)
        ::shutdown(fd, SHUT_RDWR);
}
uint64_t FaultRegistry::served() const { return impl_->served; }
int FaultRegistry::requests() const { return impl_->requests; }
int FaultRegistry::most_connections() const { return impl_->most; }
void FaultRegistry::forget() {
    impl_->served = 0;
    impl_->requests = impl_->most = 0;
    const std::lock_guard lock(impl_->mutex);
    impl_->asked.clear();
}
void FaultRegistry::await_served(uint64_t bytes) const {
    for (uint64_t now = impl_->served; now < bytes; now = impl_->served)
        impl_->served.wait(now);
}

void FaultRegistry::Impl::accept_all() {
    for (;;) {
        const int fd = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        if (fd < 0 || stopping) {
            if (fd >= 0) ::close(fd);
            return;
        }
        if (dead) {
            ::close(fd);
            continue;
        }
        const int small = 64 << 10; // what is sent is nearly what was received
        ::setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
        const std::lock_guard lock(mutex);
        open.insert(fd);
        threads.emplace_back([this, fd] {
            serve(fd);
            const std::lock_guard inner(mutex);
            open.erase(fd);
            ::close(fd);
        });
    }
}

void FaultRegistry::Impl::serve(int fd) {
    std::string buffer;
    for (;;) {
        size_t end = 0;
        while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
            char chunk[4096];
            const ssize_t n = ::recv(fd, chunk, sizeof chunk, 0);
            if (n <= 0) return;
            buffer.append(chunk, static_cast<size_t>(n));
            if (buffer[0] < 'A' || buffer[0] > 'Z') { // a TLS hello
                reply(fd, 400, "Connection: close\r\n", "");
                return;
            }
        }
        const std::string head = buffer.substr(0, end + 2);
        buffer.erase(0, end + 4);
        const size_t a = head.find(' '), b = head.find(' ', a + 1);
        std::map<std::string, std::string> headers;
        for (size_t from = head.find("\r\n") + 2; from < head.size();) {
            const size_t stop = head.find("\r\n", from), colon = head.find(": ", from);
            if (colon < stop) {
                std::string name = head.substr(from, colon - from);
                std::transform(name.begin(), name.end(), name.begin(), ::tolower);
                headers[name] = head.substr(colon + 2, stop - colon - 2);
            }
            from = stop + 2;
        }
        if (dead || !answer(fd, head.substr(a + 1, b - a - 1), headers)) return;
    }
}

bool FaultRegistry::Impl::answer(int fd, const std::string &path,
                                 const std::map<std::string, std::string> &headers) {
    const auto header = [&](const char *name) {
        const auto found = headers.find(name);
        return found == headers.end() ? std::string() : found->second;
    };
    const std::string self = "127.0.0.1:" + std::to_string(port);
    if (path.starts_with("/token")) {
        const std::lock_guard lock(mutex);
        token = "t" + std::to_string(++token_number);
        token_left = token_life;
        return reply(fd, 200, "Content-Type: application/json\r\n", "{\"token\":\"" + token + "\"}");
    }
    if (!authorized(header("authorization")))
        return reply(fd, 401,
                     "WWW-Authenticate: Bearer realm=\"http://" + self +
                         "/token\",service=\"s\",scope=\"repository:" + image.repository + ":pull\"\r\n",
                     "{}");
    if (path == "/v2/" || path == "/v2") return reply(fd, 200, "", "{}");
    const std::string base = "/v2/" + image.repository;
    const std::string bare = path.substr(0, path.find('?'));
    if (bare == base + "/manifests/" + image.tag || bare == base + "/manifests/" + image.manifest_digest)
        return reply(fd, 200,
                     "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: " +
                         image.manifest_digest + "\r\n",
                     image.manifest);
    if (bare.starts_with(base + "/blobs/")) return blob(fd, bare.substr(base.size() + 7), header("range"));
    return reply(fd, 404, "", R"({"errors":[{"code":"NAME_UNKNOWN"}]})");
}

bool FaultRegistry::Impl::blob(int fd, const std::string &digest, const std::string &range) {
    const auto found = image.blobs.find(digest);
    if (found == image.blobs.end()) return reply(fd, 404, "", R"({"errors":[{"code":"BLOB_UNKNOWN"}]})");
    const std::string &bytes = found->second;
    Request request{digest, 0, bytes.size(), false, 0};
    uint64_t end = bytes.size();
    if (range.starts_with("bytes=")) {
        char *rest = nullptr;
        request.offset = std::strtoull(range.c_str() + 6, &rest, 10);
        request.ranged = true;
        if (*rest == '-' && rest[1]) end = std::min<uint64_t>(end, std::strtoull(rest + 1, nullptr, 10) + 1);
    }
    const bool layer = is_layer(digest);
    Fault fault;
    if (layer) {
        ++requests;
        {
            const std::lock_guard lock(mutex);
            request.number = ++asked[digest];
        }
        if (script) fault = script(request);
    }
    if (fault.status)
        return reply(
            fd, fault.status,
            fault.retry_after < 0 ? "" : "Retry-After: " + std::to_string(fault.retry_after) + "\r\n", "{}");
    uint64_t at = request.offset;
    bool partial = request.ranged;
    if (fault.ignore_range) at = 0, end = bytes.size(), partial = false;
    if (at >= end && !bytes.empty()) return reply(fd, 416, "", "{}");
    std::string head =
        "HTTP/1.1 " + std::string(partial ? "206" : "200") +
        " X\r\nContent-Type: application/octet-stream\r\nContent-Length: " + std::to_string(end - at) +
        "\r\n";
    if (partial) {
        const uint64_t shown = fault.wrong_range ? at + 7 : at;
        head += "Content-Range: bytes " + std::to_string(shown) + "-" + std::to_string(end - 1) + "/" +
                std::to_string(bytes.size()) + "\r\n";
    }
    head += "\r\n";
    if (!send_all(fd, head.data(), head.size())) return false;
    struct Answering {
        Impl &impl;
        explicit Answering(Impl &owner) : impl(owner) {
            const int now = ++impl.answering;
            for (int most = impl.most; most < now && !impl.most.compare_exchange_weak(most, now);) {
            }
        }
        ~Answering() { --impl.answering; }
    };
    std::unique_ptr<Answering> answering;
    if (layer) answering = std::make_unique<Answering>(*this);
    while (at < end) {
        if (at >= fault.cut_at || dead) return false;
        if (at >= fault.stall_at) {
            char byte = 0;
            while (::recv(fd, &byte, 1, 0) > 0) {
            }
            return false;
        }
        uint64_t stop = std::min<uint64_t>(end, at + kChunk);
        for (const uint64_t edge : {fault.cut_at, fault.stall_at})
            if (edge > at) stop = std::min(stop, edge);
        const size_t n = stop - at;
        if (layer) bucket.take(n);
        bool good = false;
        if (fault.corrupt_at >= at && fault.corrupt_at < stop) {
            std::string copy = bytes.substr(at, n);
            copy[fault.corrupt_at - at] ^= 0x20;
            good = send_all(fd, copy.data(), n);
        } else {
            good = send_all(fd, bytes.data() + at, n);
        }
        if (!good) return false;
        at = stop;
        if (layer) {
            served += n;
            served.notify_all();
        }
    }
    return true;
}
