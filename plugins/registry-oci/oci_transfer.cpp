// resolve and fetch. Both walk the endpoints; fetch also goes on at the byte reached when the endpoint
// that was serving it fails, so a cut connection costs what was in flight and nothing more.
#include "oci_driver.h"

#include <openssl/evp.h>

#include <algorithm>
#include <poll.h>

namespace gantry::oci {
namespace {

constexpr size_t kMaxManifest = 4 << 20;
constexpr int kRounds = 3;       // over all endpoints, without a byte of progress
constexpr int kMaxAttempts = 64; // also with progress: a server that gives one byte a time is useless
constexpr int64_t kMaxWaitMs = 10'000;

const char *const kManifestAccept =
    "Accept: application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.docker.distribution.manifest.v2+json, */*";

std::string sha256(std::string_view bytes) {
    unsigned char raw[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (EVP_Digest(bytes.data(), bytes.size(), raw, &size, EVP_sha256(), nullptr) != 1)
        throw Error(ErrorClass::kInternal, "compute digest: libcrypto failed");
    static const char kHex[] = "0123456789abcdef";
    std::string out = "sha256:";
    for (unsigned i = 0; i < size; ++i)
        (out += kHex[raw[i] >> 4]) += kHex[raw[i] & 15];
    return out;
}

/// The core has parsed all of this; a driver that builds URLs still does not trust it.
void check_path_part(const std::string &text, const char *what) {
    const bool good = !text.empty() && text.size() < 512 && text.find("..") == std::string::npos &&
                      std::all_of(text.begin(), text.end(), [](char c) {
                          return ::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                                 c == '-' || c == '/' || c == ':' || c == '+';
                      });
    if (!good) throw Error(ErrorClass::kInvalidArgument, std::string("ask registry: bad ") + what);
}

void wait_or_cancel(const Call &call, int64_t ms, const std::string &doing) {
    if (const int left = call.remaining_ms(); left >= 0) ms = std::min<int64_t>(ms, left);
    pollfd p{call.cancel_fd(), POLLIN, 0};
    ::poll(&p, call.cancel_fd() >= 0 ? 1 : 0, static_cast<int>(ms));
    call.check(doing);
}

std::string media_type_of(const HttpResponse &response) {
    std::string type = response.header("content-type");
    if (const size_t end = type.find(';'); end != std::string::npos) type.resize(end);
    while (!type.empty() && type.back() == ' ')
        type.pop_back();
    return type;
}

/// First byte of "bytes 100-199/200"; false when the header is missing or odd.
bool content_range_start(const HttpResponse &response, uint64_t &start) {
    const std::string value = response.header("content-range");
    if (!value.starts_with("bytes ")) return false;
    char *end = nullptr;
    errno = 0;
    start = std::strtoull(value.c_str() + 6, &end, 10);
    return errno == 0 && end && *end == '-';
}

bool gives_up(const Error &error) {
    return error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline;
}

} // namespace

Descriptor OciDriver::resolve(const Call &call, const RegistryReference &ref,
                              const std::optional<Credential> &credential, std::string *body) {
    const std::string what = ref.digest.empty() ? ref.tag : ref.digest;
    check_path_part(ref.repository, "repository");
    check_path_part(what, "tag or digest");
    const std::string doing =
        "resolve " + ref.registry + "/" + ref.repository + (ref.digest.empty() ? ":" : "@") + what;
    std::vector<Failure> failures;
    for (const Endpoint &e : by_health(endpoints(ref.registry))) {
        if (ref.digest.empty() && !e.resolve_tags) continue;
        call.check(doing);
        try {
            HttpRequest wanted;
            wanted.headers.push_back(kManifestAccept);
            wanted.max_body = kMaxManifest;
            const auto response = request(call, e, ref.registry, "repository:" + ref.repository + ":pull",
                                          credential, wanted, "/v2/" + ref.repository + "/manifests/" + what);
            if (response.status != 200) {
                failures.push_back(judge(e, response));
                mark_failed(failures.back());
                continue;
            }
            Descriptor out{media_type_of(response), sha256(response.body), response.body.size(), e.url};
            std::string claimed = ref.digest.empty() ? response.header("docker-content-digest") : ref.digest;
            if (claimed.starts_with("sha512:") && !ref.digest.empty())
                out.digest = claimed; // the core checks
            if (!claimed.starts_with("sha256:") && ref.digest.empty()) claimed.clear();
            if (!claimed.empty() && claimed != out.digest) {
                failures.push_back({ErrorClass::kDataLoss, e.url,
                                    "the manifest served has digest " + out.digest + " instead of " + claimed,
                                    0});
                continue;
            }
            mark_ok(e.url);
            if (body) *body = response.body;
            return out;
        } catch (const TransportError &error) {
            failures.push_back({ErrorClass::kUnavailable, e.url, error.message(), 0});
            mark_failed(failures.back());
        } catch (const Error &error) {
            if (gives_up(error)) throw;
            failures.push_back({error.error_class(), e.url, error.message(), 0});
        }
    }
    throw combined(doing, failures);
}

void OciDriver::fetch(const Call &call, const Fetch &fetch, const BlobSink &sink) {
    const std::string &digest = fetch.descriptor.digest;
    check_path_part(fetch.from.repository, "repository");
    check_path_part(digest, "digest");
    const std::string doing = "fetch " + digest + " of " + fetch.from.registry + "/" + fetch.from.repository;
    const uint64_t end = fetch.length ? fetch.offset + fetch.length : fetch.descriptor.size;
    uint64_t at = fetch.offset; // every byte below it has been handed over
    if (end != 0 && at >= end) return;

    std::vector<Failure> failures;
    std::set<std::string> refused; // 404 and the like: asking again cannot help
    int attempts = 0;
    for (int round = 0; round < kRounds && attempts < kMaxAttempts; ++round) {
        int64_t wait_ms = 200ll << (2 * round);
        bool asked = false;
        for (const Endpoint &e : by_health(endpoints(fetch.from.registry))) {
            if (std::find(fetch.avoid.begin(), fetch.avoid.end(), e.url) != fetch.avoid.end()) {
                if (round == 0) {
                    failures.push_back(
                        {ErrorClass::kDataLoss, e.url, "gave wrong bytes before, not asked", 0});
                    mark_failed({ErrorClass::kUnavailable, e.url, "gave wrong bytes", 0});
                }
                continue;
            }
            if (refused.contains(e.url)) continue;
            call.check(doing);
            asked = true;
            ++attempts;
            const uint64_t before = at;
            uint64_t position = 0; // of the next byte of this answer
            bool first = true;
            std::string odd;
            HttpRequest wanted;
            if (fetch.is_manifest) wanted.headers.push_back(kManifestAccept);
            if (at > 0 || fetch.length)
                wanted.headers.push_back("Range: bytes=" + std::to_string(at) + "-" +
                                         (fetch.length ? std::to_string(end - 1) : ""));
            wanted.sink = [&](const HttpResponse &head, const void *data, size_t size) {
                if (first) {
                    first = false;
                    position = 0;
                    if (head.status == 206 && (!content_range_start(head, position) || position > at)) {
                        odd = "answered another range than asked for";
                        return false;
                    }
                }
                const char *bytes = static_cast<const char *>(data);
                if (position < at) { // a server that ignores Range starts from the beginning
                    const uint64_t skip = std::min<uint64_t>(at - position, size);
                    position += skip;
                    bytes += skip;
                    size -= skip;
                }
                if (end != 0) size = std::min<uint64_t>(size, end - at);
                if (size > 0) {
                    sink(e.url, at, bytes, size);
                    at += size;
                    position += size;
                    call.progress(digest.c_str(), at, end);
                }
                return end == 0 || at < end;
            };
            try {
                const auto response =
                    request(call, e, fetch.from.registry, "repository:" + fetch.from.repository + ":pull",
                            fetch.credential, wanted,
                            "/v2/" + fetch.from.repository + (fetch.is_manifest ? "/manifests/" : "/blobs/") +
                                digest);
                if (odd.empty() && (response.status == 200 || response.status == 206)) {
                    if (end == 0 || at == end) {
                        mark_ok(e.url);
                        return;
                    }
                    odd = "the answer ended at byte " + std::to_string(at) + " of " + std::to_string(end);
                }
                failures.push_back(odd.empty() ? judge(e, response)
                                               : Failure{ErrorClass::kUnavailable, e.url, odd, 0});
                if (failures.back().error_class != ErrorClass::kUnavailable) refused.insert(e.url);
                if (failures.back().retry_after_s)
                    wait_ms = std::max(wait_ms, std::min(failures.back().retry_after_s * 1000, kMaxWaitMs));
            } catch (const SinkStopped &stopped) {
                std::rethrow_exception(stopped.why);
            } catch (const TransportError &error) {
                failures.push_back({ErrorClass::kUnavailable, e.url,
                                    error.message() + " (at byte " + std::to_string(at) + ")", 0});
            } catch (const Error &error) {
                if (gives_up(error)) throw;
                failures.push_back({error.error_class(), e.url, error.message(), 0});
                if (error.error_class() != ErrorClass::kUnavailable) refused.insert(e.url);
            }
            mark_failed(failures.back());
            if (at > before) round = 0; // it moves: be patient
        }
        if (!asked) break;
        if (round + 1 < kRounds) wait_or_cancel(call, wait_ms, doing);
    }
    throw combined(doing, failures);
}

} // namespace gantry::oci
