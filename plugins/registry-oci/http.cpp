// A session is an easy and a multi handle: the multi lets a request wait on the cancellation descriptor
// and its sockets in one poll, so that Ctrl-C never waits for the network. Sessions are pooled because
// the connection cache lives in the multi. Redirects are followed here and not by libcurl: that is where
// Authorization must be dropped and where https must not turn into http.
#include "http.h"

#include "small_file.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cstdlib>
#include <curl/curl.h>
#include <mutex>

namespace gantry::oci {
namespace {

constexpr size_t kMaxHeaderBytes = 64 << 10;
constexpr int kMaxRedirects = 5;
constexpr size_t kMaxIdleSessions = 16;
constexpr size_t kMaxCaFile = 4 << 20;

struct Session {
    CURLM *multi = nullptr;
    CURL *easy = nullptr;
    Session() : multi(curl_multi_init()), easy(curl_easy_init()) {
        if (!multi || !easy) {
            if (easy) curl_easy_cleanup(easy);
            if (multi) curl_multi_cleanup(multi);
            throw Error(ErrorClass::kNoSpace, "start http session: no memory");
        }
    }
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;
    ~Session() {
        curl_easy_cleanup(easy);
        curl_multi_cleanup(multi);
    }
};

struct Transfer {
    const HttpRequest &request;
    HttpResponse response;
    CURL *easy;
    uint64_t sent = 0; // of the body
    size_t header_bytes = 0;
    bool too_large = false, complete = false;
    std::exception_ptr sink_error;
};

size_t on_header(char *data, size_t, size_t size, void *ctx) {
    auto &t = *static_cast<Transfer *>(ctx);
    if ((t.header_bytes += size) > kMaxHeaderBytes) {
        t.too_large = true;
        return 0;
    }
    try {
        std::string_view line(data, size);
        if (line.starts_with("HTTP/")) { // 1xx answers come before the real one
            t.response.headers.clear();
            return size;
        }
        const size_t colon = line.find(':');
        if (colon == std::string_view::npos) return size;
        std::string name(line.substr(0, colon));
        std::transform(name.begin(), name.end(), name.begin(),
                       [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
        std::string_view value = line.substr(colon + 1);
        while (!value.empty() && (value.front() == ' ' || value.front() == '\t'))
            value.remove_prefix(1);
        while (!value.empty() && static_cast<unsigned char>(value.back()) <= ' ')
            value.remove_suffix(1);
        t.response.headers.emplace_back(std::move(name), value);
        return size;
    } catch (...) {
        t.sink_error = std::current_exception();
        return 0;
    }
}

size_t on_body(char *data, size_t, size_t size, void *ctx) {
    auto &t = *static_cast<Transfer *>(ctx);
    try {
        if (t.response.status == 0) curl_easy_getinfo(t.easy, CURLINFO_RESPONSE_CODE, &t.response.status);
        if (t.request.sink && (t.response.status == 200 || t.response.status == 206)) {
            if (t.request.sink(t.response, data, size)) return size;
            t.complete = true;
            return 0;
        }
        if (t.response.body.size() + size > t.request.max_body) {
            t.too_large = true;
            return 0;
        }
        t.response.body.append(data, size);
        return size;
    } catch (...) {
        t.sink_error = std::current_exception();
        return 0;
    }
}

size_t on_send(char *data, size_t, size_t size, void *ctx) {
    auto &t = *static_cast<Transfer *>(ctx);
    try {
        const auto want = static_cast<size_t>(std::min<uint64_t>(size, t.request.body.size - t.sent));
        if (want == 0) return 0;
        const size_t got = t.request.body.read(t.sent, data, want);
        if (got == 0 || got > want)
            throw Error(ErrorClass::kDataLoss, "send request: the content is shorter than announced");
        t.sent += got;
        return got;
    } catch (...) {
        t.sink_error = std::current_exception();
        return CURL_READFUNC_ABORT;
    }
}

int on_rewind(void *ctx, curl_off_t offset, int origin) {
    auto &t = *static_cast<Transfer *>(ctx);
    // libcurl would send all of it again when a kept connection breaks; who pushes knows better where to go
    // on.
    return origin == SEEK_SET && offset == static_cast<curl_off_t>(t.sent) ? CURL_SEEKFUNC_OK
                                                                           : CURL_SEEKFUNC_FAIL;
}

void set_method(CURL *easy, const HttpRequest &request, Transfer &t) {
    if (request.method.empty() || request.method == "GET") return;
    if (request.method == "HEAD") {
        curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
        return;
    }
    if (request.body.size > 0 || request.method != "POST") {
        curl_easy_setopt(easy, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(easy, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body.size));
        curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_send);
        curl_easy_setopt(easy, CURLOPT_READDATA, &t);
        curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_rewind);
        curl_easy_setopt(easy, CURLOPT_SEEKDATA, &t);
        curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, 512L << 10);
    } else {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, 0L);
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, "");
    }
    curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request.method.c_str());
}

bool is_tls_failure(CURLcode code) {
    return code == CURLE_SSL_CONNECT_ERROR || code == CURLE_PEER_FAILED_VERIFICATION ||
           code == CURLE_SSL_CERTPROBLEM || code == CURLE_SSL_CIPHER || code == CURLE_SSL_CACERT_BADFILE;
}

/// curl says how long it tried ("... after 3 ms: Couldn't connect"): the same failure is to read the same
/// each time.
std::string without_time(std::string text) {
    const size_t at = text.find(" after ");
    if (at == text.npos) return text;
    const size_t digits = at + sizeof " after " - 1, end = text.find_first_not_of("0123456789", digits);
    if (end != text.npos && end > digits && text.compare(end, 3, " ms") == 0) text.erase(at, end + 3 - at);
    return text;
}

/// When anything last moved, in either direction.
struct Stall {
    int64_t since_ns;
    curl_off_t moved;

    void look(const Transfer &t) {
        curl_off_t down = 0, up = 0;
        curl_easy_getinfo(t.easy, CURLINFO_SIZE_DOWNLOAD_T, &down);
        curl_easy_getinfo(t.easy, CURLINFO_SIZE_UPLOAD_T, &up);
        const curl_off_t now_moved = down + up + static_cast<curl_off_t>(t.header_bytes);
        if (now_moved == moved) return;
        moved = now_moved;
        since_ns = Call::now_ns();
    }
    int64_t quiet_ns() const { return Call::now_ns() - since_ns; }
};

bool ask_to_go_on(const HttpRequest &request) {
    try {
        return request.go_on();
    } catch (...) {
        throw SinkStopped{std::current_exception()};
    }
}

const char *environment(const char *name) { return std::getenv(name); }

struct Detach { // an easy handle must leave its multi before it may be used again
    Session &s;
    ~Detach() { curl_multi_remove_handle(s.multi, s.easy); }
};

} // namespace

struct HttpClient::Impl {
    std::string user_agent;
    long connect_ms;
    int64_t stall_ns;
    bool http2;
    std::mutex mutex;
    std::vector<std::unique_ptr<Session>> idle;

    std::unique_ptr<Session> take() {
        {
            std::lock_guard lock(mutex);
            if (!idle.empty()) {
                auto s = std::move(idle.back());
                idle.pop_back();
                return s;
            }
        }
        return std::make_unique<Session>();
    }
    void give_back(std::unique_ptr<Session> s) {
        curl_easy_reset(s->easy);
        std::lock_guard lock(mutex);
        if (idle.size() < kMaxIdleSessions) idle.push_back(std::move(s));
    }

    HttpResponse once(const Call &call, const HttpRequest &request, Session &session);
};

HttpResponse HttpClient::Impl::once(const Call &call, const HttpRequest &request, Session &session) {
    CURL *easy = session.easy;
    curl_easy_reset(easy);
    Transfer t{request, {}, easy, 0, 0, false, false, nullptr};
    char error[CURL_ERROR_SIZE] = "";
    curl_slist *list = nullptr;
    struct FreeList {
        curl_slist *&list;
        ~FreeList() { curl_slist_free_all(list); }
    } free_list{list};
    auto add_header = [&](const std::string &line) {
        curl_slist *grown = curl_slist_append(list, line.c_str());
        if (!grown) throw Error(ErrorClass::kNoSpace, "send request: no memory");
        list = grown;
    };
    for (const auto &h : request.headers)
        add_header(h);
    if (!request.authorization.empty()) add_header("Authorization: " + request.authorization);
    if (request.body.size > 0) add_header("Expect:"); // whether we may was asked by the requests before

    curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, user_agent.c_str());
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, 256L << 10);
    curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, error);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &t);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &t);
    if (!request.form.empty()) {
        curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(request.form.size()));
        curl_easy_setopt(easy, CURLOPT_POSTFIELDS, request.form.c_str());
    }
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1);
    set_method(easy, request, t);
    if (request.timeout_ns > 0)
        curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(request.timeout_ns / 1'000'000 + 1));
    // Always set, so that libcurl does not look for proxies itself.
    const ProxyChoice proxy = proxy_for(request.proxy, request.url, environment);
    curl_easy_setopt(easy, CURLOPT_PROXY, proxy.url.c_str());
    curl_easy_setopt(easy, CURLOPT_NOPROXY, proxy.no_proxy.c_str());
    curl_easy_setopt(easy, CURLOPT_HEADEROPT, static_cast<long>(CURLHEADER_SEPARATE));
    if (request.tls.skip_verify) {
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 0L);
        curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 0L);
    }
    if (!request.tls.ca_file.empty()) curl_easy_setopt(easy, CURLOPT_CAINFO, request.tls.ca_file.c_str());
    if (!request.tls.ca_pem.empty()) {
        std::string pem = request.tls.ca_pem; // replaces CAINFO, so that both go in together
        if (!request.tls.ca_file.empty()) pem += read_small_file(request.tls.ca_file, kMaxCaFile);
        curl_blob blob{pem.data(), pem.size(), CURL_BLOB_COPY};
        curl_easy_setopt(easy, CURLOPT_CAINFO_BLOB, &blob);
    }
    if (!request.tls.client_cert.empty())
        curl_easy_setopt(easy, CURLOPT_SSLCERT, request.tls.client_cert.c_str());
    if (!request.tls.client_key.empty())
        curl_easy_setopt(easy, CURLOPT_SSLKEY, request.tls.client_key.c_str());

    if (curl_multi_add_handle(session.multi, easy) != CURLM_OK)
        throw Error(ErrorClass::kInternal, "send request to " + origin_of(request.url) + ": multi handle");
    Detach detach{session};
    const std::string doing = "transfer from " + origin_of(request.url);
    // libcurl's own limit looks at averages over seconds and says so seconds late.
    Stall stall{Call::now_ns(), 0};
    for (int running = 1; running > 0;) {
        call.check(doing);
        if (request.go_on && !ask_to_go_on(request)) {
            t.complete = true;
            break;
        }
        if (CURLMcode code = curl_multi_perform(session.multi, &running); code != CURLM_OK)
            throw TransportError(curl_multi_strerror(code), false);
        if (running == 0) break;
        stall.look(t);
        const int64_t allowed =
            std::max(request.patience_ns,
                     stall.moved ? stall_ns : std::max<int64_t>(stall_ns, connect_ms * 1'000'000LL));
        if (stall.quiet_ns() > allowed)
            throw TransportError("no byte for " + std::to_string(allowed / 1'000'000) + " ms", false);
        curl_waitfd extra{call.cancel_fd(), CURL_WAIT_POLLIN, 0};
        int wait = call.remaining_ms();
        const int often = static_cast<int>(std::clamp<int64_t>(stall_ns / 4'000'000, 1, 1000));
        if (wait < 0 || wait > often) wait = often;
        curl_multi_poll(session.multi, &extra, call.cancel_fd() >= 0 ? 1 : 0, wait, nullptr);
    }
    CURLcode result = CURLE_OK;
    int left = 0;
    while (CURLMsg *message = curl_multi_info_read(session.multi, &left))
        if (message->msg == CURLMSG_DONE && message->easy_handle == easy) result = message->data.result;
    if (t.sink_error) throw SinkStopped{t.sink_error};
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &t.response.status);
    t.response.url = request.url;
    curl_off_t microseconds = 0;
    curl_easy_getinfo(easy, CURLINFO_STARTTRANSFER_TIME_T, &microseconds);
    t.response.first_byte_ns = static_cast<int64_t>(microseconds) * 1000;
    if (t.complete) return std::move(t.response);
    if (t.too_large)
        throw TransportError(
            "the answer is larger than " +
                std::to_string(t.header_bytes > kMaxHeaderBytes ? kMaxHeaderBytes : request.max_body) +
                " bytes",
            false);
    if (result != CURLE_OK) {
        std::string why = without_time(*error ? error : curl_easy_strerror(result));
        // TLS 1.3 lets a client speak before the server has judged its certificate.
        const bool refused =
            why.find("certificate required") != why.npos || why.find("alert bad certificate") != why.npos;
        if (refused) why += ": the server wants a client certificate that it knows (client_cert, client_key)";
        const bool login = why.find("response 407") != why.npos;
        if (login) why += ": the proxy wants a login (user and password in its URL)";
        const bool settled =
            refused || login || (is_tls_failure(result) && result != CURLE_SSL_CONNECT_ERROR); // cut, perhaps
        throw TransportError(why, settled,
                             result != CURLE_COULDNT_RESOLVE_HOST && result != CURLE_COULDNT_CONNECT &&
                                 result != CURLE_COULDNT_RESOLVE_PROXY &&
                                 result != CURLE_OPERATION_TIMEDOUT && !settled && !is_tls_failure(result));
    }
    return std::move(t.response);
}

HttpClient::HttpClient(std::string user_agent, int64_t connect_timeout_ns, int64_t stall_timeout_ns,
                       bool http2)
    : impl_(std::make_unique<Impl>()) {
    static std::once_flag once;
    std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
    impl_->user_agent = std::move(user_agent);
    impl_->http2 = http2;
    impl_->connect_ms = static_cast<long>(std::max<int64_t>(1, connect_timeout_ns / 1'000'000));
    impl_->stall_ns = std::max<int64_t>(1'000'000, stall_timeout_ns);
}

HttpClient::~HttpClient() = default;

HttpResponse HttpClient::perform(const Call &call, const HttpRequest &request) {
    HttpRequest current = request;
    auto session = impl_->take();
    for (int redirects = 0;; ++redirects) {
        HttpResponse response = impl_->once(call, current, *session);
        const bool redirect = response.status == 301 || response.status == 302 || response.status == 303 ||
                              response.status == 307 || response.status == 308;
        char *target = nullptr;
        if (redirect) curl_easy_getinfo(session->easy, CURLINFO_REDIRECT_URL, &target);
        if (!redirect || !target) {
            impl_->give_back(std::move(session));
            return response;
        }
        const std::string next = target;
        if (redirects == kMaxRedirects) throw TransportError("more than 5 redirects", false);
        if (!current.form.empty()) throw TransportError("redirect of a token request", false);
        if (!current.method.empty() && current.method != "GET" && current.method != "HEAD" &&
            response.status != 307 && response.status != 308)
            throw TransportError("redirect of an upload by HTTP " + std::to_string(response.status), false);
        if (current.url.starts_with("https://") && !next.starts_with("https://"))
            throw TransportError("redirect from https to " + origin_of(next), false);
        if (origin_of(next) != origin_of(current.url)) {
            current.authorization.clear();
            current.tls.client_cert.clear();
            current.tls.client_key.clear();
        }
        current.url = next;
    }
}

std::string HttpResponse::header(std::string_view name) const {
    for (const auto &[key, value] : headers)
        if (key == name) return value;
    return {};
}

std::string origin_of(const std::string &url) {
    CURLU *parsed = curl_url();
    struct Free {
        CURLU *u;
        ~Free() { curl_url_cleanup(u); }
    } free_url{parsed};
    if (!parsed || curl_url_set(parsed, CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return "invalid://";
    std::string out;
    const std::pair<CURLUPart, const char *> parts[] = {
        {CURLUPART_SCHEME, ""}, {CURLUPART_HOST, "://"}, {CURLUPART_PORT, ":"}};
    for (const auto &[part, separator] : parts) {
        char *text = nullptr;
        if (curl_url_get(parsed, part, &text, CURLU_DEFAULT_PORT) != CURLUE_OK) return "invalid://";
        out += std::string(separator) + text;
        curl_free(text);
    }
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return out;
}

bool is_loopback_host(std::string_view host) {
    if (host.starts_with('[')) {
        const size_t end = host.find(']');
        host = host.substr(1, end == std::string_view::npos ? end : end - 1);
    } else if (const size_t colon = host.find(':');
               colon != std::string_view::npos && host.find(':', colon + 1) == std::string_view::npos) {
        host = host.substr(0, colon);
    }
    if (host == "localhost" || host == "::1") return true;
    in_addr v4{};
    return inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127;
}

std::string escape_query(std::string_view text) {
    static const char kHex[] = "0123456789ABCDEF";
    std::string out;
    for (const char c : text) {
        const auto u = static_cast<unsigned char>(c);
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
            c == '_' || c == '.' || c == '~')
            out += c;
        else
            (out += '%') += {kHex[u >> 4], kHex[u & 15]};
    }
    return out;
}

} // namespace gantry::oci
