// What a reference means now. Every endpoint that may say so is asked until one answers; only what may be
// better in a moment (429, 5xx, a cut connection) is asked again.
#include "oci_driver.h"

#include "manifest_accept.h"

#include <curl/curl.h>
#include <openssl/evp.h>

#include <algorithm>
#include <poll.h>
#include <random>

namespace gantry::oci {
namespace {

constexpr size_t kMaxManifest = 4 << 20;
constexpr int kRounds = 3;
constexpr int64_t kFirstWaitMs = 200; // then four times as long
constexpr int64_t kTimeout = 120'000'000'000;

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
std::string media_type_of(const HttpResponse &response) {
    std::string type = response.header("content-type");
    if (const size_t end = type.find(';'); end != std::string::npos) type.resize(end);
    while (!type.empty() && type.back() == ' ')
        type.pop_back();
    return type;
}

bool gives_up(const Error &error) {
    return error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline;
}

} // namespace

void check_path_part(const std::string &text, const char *what) {
    const bool good = !text.empty() && text.size() < 512 && text.find("..") == std::string::npos &&
                      std::all_of(text.begin(), text.end(), [](char c) {
                          return ::isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                                 c == '-' || c == '/' || c == ':' || c == '+';
                      });
    if (!good) throw Error(ErrorClass::kInvalidArgument, std::string("ask registry: bad ") + what);
}

void wait_or_cancel(const Call &call, int64_t min_ms, int64_t max_ms, const std::string &doing) {
    thread_local std::minstd_rand generator{std::random_device{}()};
    int64_t ms = std::uniform_int_distribution<int64_t>(min_ms, std::max(min_ms, max_ms))(generator);
    if (const int left = call.remaining_ms(); left >= 0) ms = std::min<int64_t>(ms, left);
    pollfd p{call.cancel_fd(), POLLIN, 0};
    ::poll(&p, call.cancel_fd() >= 0 ? 1 : 0, static_cast<int>(ms));
    call.check(doing);
}

int64_t parse_retry_after(const std::string &value, int64_t now_s) {
    if (value.empty() || value.size() > 64) return 0;
    if (std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; }))
        return value.size() > 6 ? 999'999 : std::stol(value);
    const time_t when = curl_getdate(value.c_str(), nullptr);
    return when == -1 || when <= now_s ? 0 : std::min<int64_t>(when - now_s, 999'999);
}

Descriptor OciDriver::resolve(const Call &call, const RegistryReference &ref,
                              const std::optional<Credential> &credential, std::string *body) {
    const std::string what = ref.digest.empty() ? ref.tag : ref.digest;
    check_path_part(ref.repository, "repository");
    check_path_part(what, "tag or digest");
    const std::string doing =
        "resolve " + ref.registry + "/" + ref.repository + (ref.digest.empty() ? ":" : "@") + what;
    table_.check_allowed(doing, ref.registry, ref.repository);
    const HealthScope scope(*this, call);
    const Purpose purpose = ref.digest.empty() ? Purpose::kTag : Purpose::kBytes;
    std::vector<Failure> failures;
    std::set<std::string> passing; // endpoints whose failure may pass
    for (int round = 0; round < kRounds; ++round) {
        if (const int64_t ms = kFirstWaitMs << (2 * std::max(0, round - 1)); round > 0)
            wait_or_cancel(call, ms / 2, ms * 3 / 2, doing);
        for (const Endpoint &e : chosen(ref.registry, purpose, 0, round == 0)) {
            if (round > 0 && !passing.contains(e.url)) continue;
            if (const auto wait = waiting(e)) {
                failures.push_back(*wait);
                passing.erase(e.url);
                continue;
            }
            call.check(doing);
            passing.erase(e.url);
            try {
                HttpRequest wanted;
                wanted.headers.push_back(kManifestAccept);
                wanted.max_body = kMaxManifest;
                wanted.timeout_ns = kTimeout;
                const auto response = request(call, e, ref.registry, e.scope(ref.repository), credential,
                                              wanted, e.path(ref.repository, "/manifests/" + what));
                const std::string url = spoken_url(e);
                if (response.status != 200) {
                    failures.push_back(judge(e, response));
                    if (failures.back().error_class == ErrorClass::kUnavailable) passing.insert(e.url);
                    mark_failed(failures.back());
                    continue;
                }
                Descriptor out{media_type_of(response), sha256(response.body), response.body.size(), url};
                std::string claimed =
                    ref.digest.empty() ? response.header("docker-content-digest") : ref.digest;
                if (claimed.starts_with("sha512:") && !ref.digest.empty())
                    out.digest = claimed; // the core checks
                if (!claimed.starts_with("sha256:") && ref.digest.empty()) claimed.clear();
                if (!claimed.empty() && claimed != out.digest) {
                    failures.push_back(
                        {ErrorClass::kDataLoss, url,
                         "the manifest served has digest " + out.digest + " instead of " + claimed, 0});
                    health_.failed(url, Fault::kCorrupt, failures.back().why);
                    continue;
                }
                health_.answered(url, response.first_byte_ns);
                mark_ok(url);
                if (body) *body = response.body;
                return out;
            } catch (const TransportError &error) {
                failures.push_back({ErrorClass::kUnavailable, spoken_url(e), error.message(), 0});
                if (error.may_pass) passing.insert(e.url);
                mark_failed(failures.back());
            } catch (const Error &error) {
                if (gives_up(error)) throw;
                failures.push_back({error.error_class(), spoken_url(e), error.message(), 0});
            }
        }
        if (passing.empty()) break;
    }
    throw combined(doing, failures);
}

} // namespace gantry::oci
