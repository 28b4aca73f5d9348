// Push: a blob is asked for first, then mounted from a repository that has it, then sent. Up to upload_chunk
// it goes in one PUT; larger ones in chunks, so that a cut connection costs a part of one: the upload's
// status says how much arrived. A registry that takes no chunks gets the whole in one PUT, and one that has
// forgotten the upload a new one. Only the registry itself is pushed to, unless a mirror has that right.
#include "oci_push.h"

#include "oci_driver.h"

#include <algorithm>
#include <curl/curl.h>

namespace gantry::oci {
namespace {

constexpr int kMaxAttempts = 6;  // without a byte of progress
constexpr int kMaxUnreached = 3; // before the registry has answered anything
constexpr int kMaxSessions = 8;  // uploads begun anew
constexpr int64_t kMaxWaitMs = 10'000;
constexpr int64_t kCommitPatience = 600'000'000'000; // a registry may hash and copy the whole blob at its end

bool is_transient(long status) { return status >= 500 || status == 429 || status == 408; }

} // namespace

std::string resolve_location(const std::string &from, const std::string &location) {
    struct Parsed {
        CURLU *url = curl_url();
        ~Parsed() { curl_url_cleanup(url); }
    } parsed;
    char *text = nullptr;
    std::string out;
    if (!location.empty() && parsed.url &&
        curl_url_set(parsed.url, CURLUPART_URL, from.c_str(), 0) == CURLUE_OK &&
        curl_url_set(parsed.url, CURLUPART_URL, location.c_str(), 0) == CURLUE_OK &&
        curl_url_get(parsed.url, CURLUPART_URL, &text, 0) == CURLUE_OK) {
        out = text;
        curl_free(text);
    }
    if (!out.starts_with("https://") && !out.starts_with("http://"))
        throw Error(ErrorClass::kUnavailable, "the registry named no usable place for the upload");
    if (from.starts_with("https://") && !out.starts_with("https://"))
        throw Error(ErrorClass::kUnavailable,
                    "the registry speaks https but wants the upload at " + origin_of(out),
                    "a proxy before it must set X-Forwarded-Proto");
    return out;
}

std::string with_digest(const std::string &location, const std::string &digest) {
    return location + (location.find('?') == std::string::npos ? "?" : "&") +
           "digest=" + escape_query(digest);
}

std::optional<uint64_t> uploaded_bytes(const std::string &range) {
    const char *text = range.c_str();
    if (range.starts_with("bytes=")) text += 6;
    if (*text != '0' || text[1] != '-' || text[2] < '0' || text[2] > '9') return std::nullopt;
    char *end = nullptr;
    errno = 0;
    const uint64_t last = std::strtoull(text + 2, &end, 10);
    if (errno != 0 || *end != '\0' || last > INT64_MAX) return std::nullopt;
    return last == 0 ? 0 : last + 1; // "0-0" is how an empty upload is told
}

std::string next_link(const std::string &link) {
    const size_t begin = link.find('<'), end = link.find('>', begin);
    if (begin == std::string::npos || end == std::string::npos) return {};
    const std::string parameters = link.substr(end + 1);
    if (parameters.find("rel=\"next\"") == std::string::npos &&
        parameters.find("rel=next") == std::string::npos)
        return {};
    return link.substr(begin + 1, end - begin - 1);
}

/// One blob or manifest on its way to one endpoint.
class OciDriver::Upload {
  public:
    Upload(OciDriver &driver, const Call &call, const Push &push, const BlobSource &source, Endpoint to)
        : driver_(driver), call_(call), push_(push), source_(source), to_(std::move(to)),
          doing_("push " + push.descriptor.digest + " to " + push.to.registry + "/" + push.to.repository),
          chunk_(driver.options_.upload_chunk) {
        scope_ = to_.scope(push.to.repository, "pull,push");
    }

    void blob();
    void manifest();

  private:
    enum class Sent { kDone, kAgain };

    /// With authorisation, which only the endpoint's own origin gets to see.
    HttpResponse ask(HttpRequest request, const std::string &url);
    /// ask() until the answer is none of a moment's trouble. nullopt: the connection was cut in the
    /// middle of a body; how far it came is to be found out.
    HttpResponse ask_patiently(const std::function<HttpRequest()> &make, const std::string &url);
    std::string path(const std::string &rest) const { return to_.url + to_.path(push_.to.repository, rest); }
    bool exists();
    /// Begins an upload; "" when the blob was mounted.
    std::string begin(const std::string &mount_from);
    Sent send_whole();
    Sent send_chunks();
    void check_location(const HttpResponse &answer);
    HttpBody body(uint64_t offset, uint64_t size);
    /// Waits before another attempt; throws when there were enough.
    void trouble(const Failure &failure);
    [[noreturn]] void refused(const HttpResponse &answer) {
        throw combined(doing_, {driver_.judge(to_, answer)});
    }

    OciDriver &driver_;
    const Call &call_;
    const Push &push_;
    const BlobSource &source_;
    Endpoint to_;
    std::string doing_, scope_;
    std::string location_; // of the upload
    uint64_t chunk_;       // as the registry wants it
    uint64_t best_ = 0;    // bytes that were ever on their way
    int attempts_ = 0, sessions_ = 0;
    bool no_chunks_ = false, reached_ = false;
};

HttpResponse OciDriver::Upload::ask(HttpRequest request, const std::string &url) {
    Endpoint at = to_;
    at.url = origin_of(url);
    if (at.url == "invalid://")
        throw Error(ErrorClass::kUnavailable, "the registry named no usable place for the upload");
    const size_t path_begin = url.find('/', url.find("://") + 3);
    const std::string path = path_begin == std::string::npos ? "/" : url.substr(path_begin);
    if (at.url == origin_of(to_.url)) {
        at.url = to_.url.substr(0, to_.url.find('/', to_.url.find("://") + 3));
    } else { // a store of its own: what it needs is in the URL
        at.registry.clear();
        at.tls.client_cert.clear();
        at.tls.client_key.clear();
        at.http_possible = false;
        return driver_.request(call_, at, push_.to.registry, "", std::nullopt, std::move(request), path);
    }
    return driver_.request(call_, at, push_.to.registry, scope_, push_.credential, std::move(request), path);
}

void OciDriver::Upload::trouble(const Failure &failure) {
    if (++attempts_ >= (reached_ ? kMaxAttempts : kMaxUnreached)) throw combined(doing_, {failure});
    int64_t wait = std::min<int64_t>(100ll << (2 * attempts_), kMaxWaitMs);
    if (failure.retry_after_s) wait = std::max(wait, std::min(failure.retry_after_s * 1000, 6 * kMaxWaitMs));
    wait_or_cancel(call_, wait, wait + wait / 2, doing_);
}

HttpResponse OciDriver::Upload::ask_patiently(const std::function<HttpRequest()> &make,
                                              const std::string &url) {
    for (;;) {
        try {
            HttpResponse answer = ask(make(), url);
            reached_ = true;
            if (!is_transient(answer.status)) return answer;
            trouble(driver_.judge(to_, answer));
        } catch (const SinkStopped &stopped) {
            std::rethrow_exception(stopped.why);
        } catch (const TransportError &error) {
            const Failure failure{ErrorClass::kUnavailable, to_.url, error.message(), 0};
            if (error.settled) throw combined(doing_, {failure});
            trouble(failure);
        }
    }
}

bool OciDriver::Upload::exists() {
    const auto answer = ask_patiently(
        [] {
            HttpRequest head;
            head.method = "HEAD";
            return head;
        },
        path((push_.is_manifest ? "/manifests/" : "/blobs/") + push_.descriptor.digest));
    // The first answer also told which scheme a loopback registry speaks.
    to_ = driver_.push_endpoint(push_.to.registry);
    return answer.ok(); // 401, 403, 404: the upload itself will tell
}

HttpBody OciDriver::Upload::body(uint64_t offset, uint64_t size) {
    return {[this, offset](uint64_t at, void *data, size_t room) {
                const size_t got = source_(offset + at, data, room);
                if (offset + at + got > best_) {
                    best_ = offset + at + got;
                    attempts_ = 0; // it moves: be patient
                }
                call_.progress(push_.descriptor.digest.c_str(), offset + at + got, push_.descriptor.size);
                return got;
            },
            size};
}

std::string OciDriver::Upload::begin(const std::string &mount_from) {
    if (++sessions_ > kMaxSessions)
        throw Error(ErrorClass::kUnavailable, doing_ + ": the registry lost the upload again and again");
    std::string query = "/blobs/uploads/";
    if (!mount_from.empty())
        query += "?mount=" + escape_query(push_.descriptor.digest) +
                 "&from=" + escape_query(to_.prefix + mount_from);
    const std::string url = path(query);
    const auto answer = ask_patiently(
        [] {
            HttpRequest post;
            post.method = "POST";
            return post;
        },
        url);
    if (answer.status == 201 && !mount_from.empty()) return {};
    if (answer.status != 202) {
        if (!mount_from.empty()) return begin({}); // a registry that does not mount may say so oddly
        refused(answer);
    }
    const std::string least = answer.header("oci-chunk-min-length");
    if (!least.empty() && least.size() < 12 && std::all_of(least.begin(), least.end(), ::isdigit))
        chunk_ = std::max(chunk_, static_cast<uint64_t>(std::stoull(least)));
    return resolve_location(path(""), answer.header("location"));
}

void OciDriver::Upload::check_location(const HttpResponse &answer) {
    if (const std::string next = answer.header("location"); !next.empty())
        location_ = resolve_location(location_, next);
}

OciDriver::Upload::Sent OciDriver::Upload::send_whole() {
    HttpRequest put;
    put.method = "PUT";
    put.headers = {"Content-Type: application/octet-stream"};
    put.body = body(0, push_.descriptor.size);
    put.patience_ns = kCommitPatience;
    try {
        const auto answer = ask(std::move(put), with_digest(location_, push_.descriptor.digest));
        if (answer.status == 201 || answer.status == 204) return Sent::kDone;
        if (!is_transient(answer.status) && answer.status != 404) refused(answer);
        trouble(driver_.judge(to_, answer));
    } catch (const TransportError &error) {
        trouble({ErrorClass::kUnavailable, to_.url, error.message(), 0});
    }
    return Sent::kAgain;
}

OciDriver::Upload::Sent OciDriver::Upload::send_chunks() {
    const uint64_t size = push_.descriptor.size;
    uint64_t at = 0;
    bool ask_status = false;
    while (at < size) {
        if (ask_status) {
            HttpRequest get;
            HttpResponse status;
            try {
                status = ask(std::move(get), location_);
            } catch (const TransportError &error) {
                trouble({ErrorClass::kUnavailable, to_.url, error.message(), 0});
                continue;
            }
            if (is_transient(status.status)) {
                trouble(driver_.judge(to_, status));
                continue;
            }
            const auto has = uploaded_bytes(status.header("range"));
            if ((status.status != 204 && !status.ok()) || !has || *has > size) return Sent::kAgain;
            check_location(status);
            at = *has;
            ask_status = false;
            continue;
        }
        const uint64_t length = std::min(chunk_, size - at);
        HttpRequest patch;
        patch.method = "PATCH";
        patch.headers = {"Content-Type: application/octet-stream",
                         "Content-Range: " + std::to_string(at) + "-" + std::to_string(at + length - 1)};
        patch.body = body(at, length);
        try {
            const auto answer = ask(std::move(patch), location_);
            if (answer.ok()) {
                check_location(answer);
                const auto has = uploaded_bytes(answer.header("range"));
                at = has && *has > at && *has <= size ? *has : at + length;
                continue;
            }
            if (at == 0 && (answer.status == 400 || answer.status == 404 || answer.status == 405 ||
                            answer.status == 411 || answer.status == 415 || answer.status == 501)) {
                no_chunks_ = true;
                return Sent::kAgain;
            }
            if (answer.status == 416) {
                trouble(driver_.judge(to_, answer));
            } else if (answer.status == 404) {
                return Sent::kAgain; // it has forgotten the upload
            } else if (!is_transient(answer.status)) {
                refused(answer);
            } else {
                trouble(driver_.judge(to_, answer));
            }
        } catch (const TransportError &error) {
            trouble({ErrorClass::kUnavailable, to_.url,
                     error.message() + " (at byte " + std::to_string(at) + ")", 0});
        }
        ask_status = true;
    }
    const auto answer = ask_patiently(
        [] {
            HttpRequest put;
            put.method = "PUT";
            put.headers = {"Content-Type: application/octet-stream"};
            put.patience_ns = kCommitPatience;
            return put;
        },
        with_digest(location_, push_.descriptor.digest));
    if (answer.status == 201 || answer.status == 204) return Sent::kDone;
    if (answer.status == 404 && exists()) return Sent::kDone; // its answer was lost, and it was asked again
    if (answer.status == 404) return Sent::kAgain;
    refused(answer);
}

void OciDriver::Upload::blob() {
    if (exists()) throw Error(ErrorClass::kAlreadyExists, doing_ + ": the registry has it");
    if (!push_.mount_from.empty()) {
        scope_ += " " + to_.scope(push_.mount_from);
        location_ = begin(push_.mount_from);
        if (location_.empty()) return;
    } else {
        location_ = begin({});
    }
    try {
        for (;;) {
            const bool whole = no_chunks_ || push_.descriptor.size <= chunk_;
            if ((whole ? send_whole() : send_chunks()) == Sent::kDone) return;
            location_ = begin({});
        }
    } catch (const SinkStopped &stopped) {
        std::rethrow_exception(stopped.why);
    }
}

void OciDriver::Upload::manifest() {
    const bool by_digest = push_.to.tag.empty() || !push_.to.digest.empty();
    if (by_digest && exists()) throw Error(ErrorClass::kAlreadyExists, doing_ + ": the registry has it");
    const std::string name = by_digest ? push_.descriptor.digest : push_.to.tag;
    const auto answer = ask_patiently(
        [&] {
            HttpRequest put;
            put.method = "PUT";
            put.headers = {"Content-Type: " + push_.descriptor.media_type};
            put.body = body(0, push_.descriptor.size);
            return put;
        },
        path("/manifests/" + name));
    if (!answer.ok()) refused(answer);
    const std::string got = answer.header("docker-content-digest");
    const std::string algorithm = push_.descriptor.digest.substr(0, push_.descriptor.digest.find(':') + 1);
    if (got.starts_with(algorithm) && got != push_.descriptor.digest)
        throw Error(ErrorClass::kDataLoss, doing_ + ": the registry made it " + got);
}

Endpoint OciDriver::push_endpoint(const std::string &registry) const {
    // Where the reference says; a mirror only where the registry itself may not be pushed to.
    std::vector<Endpoint> list = endpoints(registry);
    std::rotate(list.begin(), list.end() - 1, list.end());
    for (Endpoint &e : list)
        if (e.rights.push && !e.blocked) return std::move(e);
    throw Error(ErrorClass::kPermissionDenied,
                "push to " + registry + ": no endpoint has the right to be pushed to",
                "set push = true in [registry.oci.hosts.\"" + registry + "\"]");
}

void OciDriver::push(const Call &call, const Push &push, const BlobSource &source) {
    check_path_part(push.to.repository, "repository");
    check_path_part(push.descriptor.digest, "digest");
    if (push.is_manifest && !push.to.tag.empty()) check_path_part(push.to.tag, "tag");
    if (!push.mount_from.empty()) check_path_part(push.mount_from, "repository");
    const HealthScope scope(*this, call);
    table_.check_allowed("push to " + push.to.registry + "/" + push.to.repository, push.to.registry,
                         push.to.repository);
    Upload upload(*this, call, push, source, push_endpoint(push.to.registry));
    if (push.is_manifest)
        upload.manifest();
    else
        upload.blob();
}

} // namespace gantry::oci
