#include "driver.h"

#include "secret.h"

#include <gantry/json.hpp>

#include <algorithm>
#include <openssl/evp.h>
#include <vector>

namespace gantry::peer {
namespace {

constexpr size_t kMaxManifest = 4 << 20, kPiece = 256 << 10;
constexpr char kOciIndex[] = "application/vnd.oci.image.index.v1+json",
               kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";

bool has_digest(const std::string &bytes, const std::string &digest) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    const EVP_MD *kind = digest.starts_with("sha512:") ? EVP_sha512() : EVP_sha256();
    if (EVP_Digest(bytes.data(), bytes.size(), raw, &size, kind, nullptr) != 1)
        throw Error(ErrorClass::kInternal, "compute digest: libcrypto failed");
    static const char kHex[] = "0123456789abcdef";
    std::string hex;
    for (unsigned i = 0; i < size; ++i)
        (hex += kHex[raw[i] >> 4]) += kHex[raw[i] & 15];
    return digest.substr(7) == hex;
}

/// "" for JSON that is no manifest: a config, say.
std::string media_type_of(const std::string &body, const std::string &digest) {
    const Json manifest = Json::parse(body, "manifest " + digest);
    const bool index = manifest["manifests"].type() == Json::Type::kArray,
               image = manifest["layers"].type() == Json::Type::kArray;
    if (manifest["schemaVersion"].size() != 2 || index == image) return {};
    const std::string &told = manifest["mediaType"].string();
    return !told.empty() ? told : index ? kOciIndex : kOciManifest;
}

void check_digest(const std::string &digest, const std::string &doing) {
    if (!is_digest(digest))
        throw Error(ErrorClass::kInvalidArgument, doing + ": it is no digest of sha256 or sha512");
}

Server::Settings serving(const Options &options) {
    Server::Settings out;
    out.listen = options.listen;
    out.max_connections = options.max_connections;
    out.bandwidth = options.bandwidth;
    out.stall_ns = options.stall_timeout_ns;
    return out;
}

} // namespace

/// What one call wants of the peers, and what it has.
struct PeerDriver::Wish {
    const std::string &digest;
    uint64_t at, end, size; // end, size 0: unknown
    const BlobSink &sink;
    std::exception_ptr refused{}; // by the receiver
};

PeerDriver::PeerDriver(const Options &options, Services services)
    : options_(options), services_(std::move(services)), key_(read_key(options.secret_file)),
      peers_({options.peers, options.listen, options.connect_timeout_ns, options.stall_timeout_ns}, key_) {
    if (options_.listen.empty()) return;
    server_ =
        std::make_unique<Server>(serving(options_), key_, services_.open, services_.log, services_.count);
    services_.log(GANTRY_LOG_INFO,
                  "serves blobs to peers at " + server_->address() +
                      ": manifests and configs of its images, and their layers with storage.retain_blobs = "
                      "true alone (without it they are dropped once they are unpacked)");
}

PeerDriver::~PeerDriver() = default;

std::string PeerDriver::address() const { return server_ ? server_->address() : ""; }

bool PeerDriver::handles(const Call &, const RegistryReference &ref) {
    const auto &only = options_.registries;
    return peers_.count() > 0 &&
           (only.empty() || std::find(only.begin(), only.end(), ref.registry) != only.end());
}

/// True when everything is there; false when this peer does not have it. Throws what made it fail.
bool PeerDriver::take(const Call &call, Peers::Connection &link, Wish &wish) {
    const auto patience = [&] {
        const int64_t stall = Call::now_ns() + options_.stall_timeout_ns;
        return Patience{call.deadline_ns() ? std::min(stall, call.deadline_ns()) : stall, call.cancel_fd()};
    };
    const uint64_t first = wish.at;
    const int64_t begun = Call::now_ns();
    const std::string question =
        text_of(Question{false, wish.digest, wish.at, wish.end ? wish.end - wish.at : 0});
    link.talk.write(question.data(), question.size(), patience());
    const std::string line = link.talk.line(patience());
    if (line.empty()) throw Error(ErrorClass::kUnavailable, "ask: it hung up");
    const Answer answer = parse_answer(line);
    if (answer.status == kMissing) {
        peers_.succeeded(link.peer, 0, 0);
        return false;
    }
    if (answer.status != kOk)
        throw Error(ErrorClass::kUnavailable, "ask: it answered " + std::to_string(answer.status));
    const uint64_t end = answer.offset + answer.length;
    if (answer.offset != wish.at || (wish.size && answer.size != wish.size) ||
        (wish.end ? end != wish.end : end != answer.size))
        throw Error(ErrorClass::kDataLoss, "ask: it has another size of this blob");
    std::vector<char> piece(std::min<uint64_t>(kPiece, std::max<uint64_t>(answer.length, 1)));
    while (wish.at < end) {
        const size_t n =
            link.talk.read(piece.data(), std::min<uint64_t>(piece.size(), end - wish.at), patience());
        if (n == 0)
            throw Error(ErrorClass::kUnavailable,
                        "read: it ended at byte " + std::to_string(wish.at) + " of " + std::to_string(end));
        try {
            wish.sink(peers_.url(link.peer), wish.at, piece.data(), n);
        } catch (...) {
            wish.refused = std::current_exception();
            throw;
        }
        wish.at += n;
        call.progress(wish.digest.c_str(), wish.at, wish.size ? wish.size : answer.size);
    }
    peers_.succeeded(link.peer, end - first, Call::now_ns() - begun);
    services_.count("fetched_bytes", static_cast<int64_t>(end - first));
    return true;
}

void PeerDriver::fetch(const Call &call, const Fetch &what, const BlobSink &sink) {
    const std::string doing = "fetch " + what.descriptor.digest.substr(0, 200) + " from peers";
    check_digest(what.descriptor.digest, doing);
    const uint64_t size = what.descriptor.size;
    Wish wish{what.descriptor.digest, what.offset, what.length ? what.offset + what.length : size, size,
              sink};
    if (wish.end && wish.at >= wish.end) return;
    Race race(peers_, call, what.avoid);
    std::string broken;
    while (auto link = race.next()) {
        try {
            if (take(call, *link, wish)) return;
        } catch (const Error &error) {
            if (wish.refused) std::rethrow_exception(wish.refused);
            call.check(doing);
            peers_.failed(link->peer, error.message());
            broken += "; " + peers_.name(link->peer) + ": " + error.message();
        }
    }
    if (wish.at > what.offset || !broken.empty())
        throw Error(ErrorClass::kUnavailable,
                    doing + ": " + broken.substr(std::min<size_t>(2, broken.size())));
    throw Error(ErrorClass::kNotFound, doing + ": " + (race.tried() ? "none has it" : "all of them rest") +
                                           (race.reasons().empty() ? "" : " (" + race.reasons() + ")"));
}

Descriptor PeerDriver::resolve(const Call &call, const RegistryReference &ref,
                               const std::optional<Credential> &, std::string *body) {
    const std::string doing = "resolve " + ref.registry + "/" + ref.repository;
    if (ref.digest.empty())
        throw Error(ErrorClass::kUnsupported, doing + ":" + ref.tag + ": peers do not say what a tag means",
                    "let another driver follow: registry.drivers = [\"peer\", \"oci\"]");
    check_digest(ref.digest, doing);
    std::string bytes, from;
    std::exception_ptr none;
    Fetch what;
    what.from = ref;
    what.descriptor.digest = ref.digest;
    for (size_t tries = 0; tries <= peers_.count(); ++tries) {
        bytes.clear();
        fetch(call, what, [&](const std::string &endpoint, uint64_t at, const void *data, size_t size) {
            // A second peer may go on where another left off.
            if (at != bytes.size() || size > kMaxManifest - bytes.size())
                throw Error(ErrorClass::kNotFound, doing + ": no manifest has more than 4 MiB");
            from = endpoint;
            bytes.append(static_cast<const char *>(data), size);
        });
        if (has_digest(bytes, ref.digest)) break;
        what.avoid.push_back(from);
        bytes.clear();
    }
    const std::string media_type = bytes.empty() ? "" : media_type_of(bytes, ref.digest);
    if (media_type.empty())
        throw Error(ErrorClass::kNotFound, doing + "@" + ref.digest + ": no peer has it as a manifest");
    const uint64_t size = bytes.size();
    if (body) *body = std::move(bytes);
    return {media_type, ref.digest, size, from};
}

EndpointLine PeerDriver::line(size_t peer) const {
    const Health h = peers_.health(peer);
    EndpointLine out;
    out.url = peers_.url(peer);
    out.role = "mirror";
    out.can_pull = true;
    out.registry = "*";
    out.latency_ns = h.latency_ns;
    out.bytes_per_second = h.bytes_per_second;
    out.bytes_served = h.bytes;
    out.successes = h.successes;
    out.failures = h.failures;
    out.resting_ns = std::max<int64_t>(h.resting_until_ns - Call::now_ns(), 0);
    if (out.resting_ns > 0)
        out.state = "resting for " + std::to_string(out.resting_ns / 1'000'000'000 + 1) + "s";
    else
        out.state = h.known ? "ok" : "unknown";
    out.reason = "[registry.peer] peers";
    if (h.in_a_row && !h.reason.empty()) out.reason += "; last failure: " + h.reason;
    return out;
}

std::vector<EndpointLine> PeerDriver::explain(const Call &call, const RegistryReference &ref) {
    std::vector<EndpointLine> out;
    if (handles(call, ref))
        for (size_t i = 0; i < peers_.count(); ++i)
            out.push_back(line(i));
    return out;
}

std::vector<EndpointLine> PeerDriver::status(const Call &) {
    std::vector<EndpointLine> out;
    for (size_t i = 0; i < peers_.count(); ++i)
        out.push_back(line(i));
    return out;
}

/// Every peer, also one that rests: a handshake and a ping.
std::vector<EndpointLine> PeerDriver::test(const Call &call, const RegistryReference &,
                                           const std::optional<Credential> &) {
    Race race(peers_, call, {}, true);
    while (auto link = race.next()) {
        const Patience patience{Call::now_ns() + options_.stall_timeout_ns, call.cancel_fd()};
        try {
            const std::string ping = text_of(Question{true, "", 0, 0});
            link->talk.write(ping.data(), ping.size(), patience);
            if (parse_answer(link->talk.line(patience)).status != kPong)
                throw Error(ErrorClass::kUnavailable, "ping: it answered something else");
            peers_.succeeded(link->peer, 0, 0);
        } catch (const Error &error) {
            call.check("test peers");
            peers_.failed(link->peer, error.message());
        }
    }
    return status(call);
}

} // namespace gantry::peer
