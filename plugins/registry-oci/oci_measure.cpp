// test: every endpoint of a registry is asked at once. A ping says whether it is there and lets us in; with a
// reference, the manifest and the beginning of its largest layer say whether and how fast it serves them.
#include "oci_driver.h"

#include "manifest_accept.h"

#include <boost/json.hpp>

#include <algorithm>
#include <thread>

namespace gantry::oci {
namespace {

constexpr size_t kMaxManifest = 4 << 20;
constexpr uint64_t kSample = 2 << 20; // bytes read of a layer
constexpr int64_t kSecond = 1'000'000'000;
constexpr int64_t kTimeout = 30 * kSecond; // of each request
constexpr size_t kAtOnce = 8;

struct Sample {
    std::string digest;
    uint64_t size = 0;
    bool manifest = false;
};

/// The largest layer of a manifest, or the first manifest of an index.
Sample sample_of(const std::string &body) {
    boost::json::parse_options limits;
    limits.max_depth = 32;
    boost::system::error_code failed;
    const auto document = boost::json::parse(body, failed, {}, limits);
    const auto *object = failed ? nullptr : document.if_object();
    Sample out;
    for (const char *key : {"layers", "manifests"}) {
        const auto *list = object ? object->if_contains(key) : nullptr;
        if (!list || !list->is_array()) continue;
        for (const auto &item : list->get_array()) {
            const auto *o = item.if_object();
            const auto *digest = o ? o->if_contains("digest") : nullptr;
            const auto *size = o ? o->if_contains("size") : nullptr;
            if (!digest || !digest->is_string() || !size || !size->is_int64() || size->get_int64() < 0)
                continue;
            const auto bytes = static_cast<uint64_t>(size->get_int64());
            if (!out.digest.empty() && (key[0] == 'm' || bytes <= out.size)) continue;
            out = {std::string(digest->get_string()), bytes, key[0] == 'm'};
        }
        if (!out.digest.empty()) return out;
    }
    return out;
}

} // namespace

EndpointLine OciDriver::measure(const Call &call, const Endpoint &e, const RegistryReference &ref,
                                const std::optional<Credential> &credential) {
    const auto finish = [&](const std::string &state, const std::string &why) {
        EndpointLine line = line_of(e);
        line.state = state;
        line.reason = e.reason + (why.empty() ? "" : "; " + why);
        return line;
    };
    if (e.blocked) return line_of(e);
    const auto failed = [&](Failure failure) {
        failure.where = spoken_url(e);
        if (failure.error_class == ErrorClass::kUnavailable) mark_failed(failure);
        return finish("failed", failure.why);
    };
    try {
        HttpRequest ping;
        ping.timeout_ns = kTimeout;
        auto response = request(call, e, ref.registry, "", credential, ping,
                                "/v2/" + (e.ns ? "?ns=" + escape_query(e.registry) : std::string()));
        if (!response.ok() && response.status != 404) return failed(judge(e, response));
        health_.answered(spoken_url(e), response.first_byte_ns);
        if (response.ok()) mark_ok(spoken_url(e));
        if (ref.repository.empty() || (ref.digest.empty() && ref.tag.empty())) return finish("ok", "");
        if (!e.rights.pull && (!ref.digest.empty() || !e.rights.resolve_tags)) return finish("ok", "");

        std::string wanted = ref.digest.empty() ? ref.tag : ref.digest;
        Sample sample;
        for (int depth = 0; depth < 2; ++depth) { // an index leads to a manifest
            HttpRequest get;
            get.headers.push_back(kManifestAccept);
            get.max_body = kMaxManifest;
            get.timeout_ns = kTimeout;
            response = request(call, e, ref.registry, e.scope(ref.repository), credential, get,
                               e.path(ref.repository, "/manifests/" + wanted));
            if (response.status != 200) return failed(judge(e, response));
            sample = sample_of(response.body);
            if (!sample.manifest) break;
            check_path_part(sample.digest, "digest");
            wanted = sample.digest;
        }
        if (sample.digest.empty() || sample.manifest || sample.size == 0 || !e.rights.pull)
            return finish("ok", "");
        check_path_part(sample.digest, "digest");
        HttpRequest read;
        const uint64_t want = std::min(sample.size, kSample);
        uint64_t got = 0;
        int64_t begun = 0, ended = 0;
        read.timeout_ns = kTimeout;
        read.headers.push_back("Range: bytes=0-" + std::to_string(want - 1));
        read.sink = [&](const HttpResponse &, const void *, size_t size) {
            ended = Call::now_ns();
            if (begun == 0)
                begun = ended;
            else
                got += size; // what came before the clock ran does not count
            return got < want;
        };
        response = request(call, e, ref.registry, e.scope(ref.repository), credential, read,
                           e.path(ref.repository, "/blobs/" + sample.digest));
        if (response.status != 200 && response.status != 206) return failed(judge(e, response));
        health_.served(spoken_url(e), got, ended - begun);
        mark_ok(spoken_url(e));
        return finish("ok", "");
    } catch (const TransportError &error) {
        return failed({ErrorClass::kUnavailable, "", error.message(), 0});
    } catch (const Error &error) {
        if (error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline)
            throw;
        return finish("failed", error.message());
    }
}

std::vector<EndpointLine> OciDriver::test(const Call &call, const RegistryReference &ref,
                                          const std::optional<Credential> &credential) {
    const std::string doing = "test endpoints of " + ref.registry;
    if (!ref.repository.empty()) check_path_part(ref.repository, "repository");
    if (!ref.tag.empty()) check_path_part(ref.tag, "tag");
    if (!ref.digest.empty()) check_path_part(ref.digest, "digest");
    table_.check_allowed(doing, ref.registry, ref.repository);
    const HealthScope scope(*this, call);
    const auto list = endpoints(ref.registry);
    std::vector<EndpointLine> out(list.size());
    std::exception_ptr stopped;
    std::mutex mutex; // of stopped
    for (size_t first = 0; first < list.size(); first += kAtOnce) {
        std::vector<std::jthread> workers;
        for (size_t i = first; i < std::min(list.size(), first + kAtOnce); ++i)
            workers.emplace_back([&, i] {
                try {
                    out[i] = measure(call, list[i], ref, credential);
                } catch (...) {
                    const std::lock_guard lock(mutex);
                    stopped = std::current_exception();
                }
            });
    }
    if (stopped) std::rethrow_exception(stopped);
    return out;
}

} // namespace gantry::oci
