// <gantry/registry.h>, slot by slot. What needs an image asks for --reference; what needs a bad server makes
// one: a listener that accepts and never answers, on a host of the case's own.
#include "network_bench.h"

#include "core/base/files.h"
#include "core/content/content.h"
#include "core/image/images.h"

#include <gantry/convert.hpp>

#include <algorithm>
#include <arpa/inet.h>
#include <boost/json.hpp>
#include <chrono>
#include <cstring>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace gantry::kit {

namespace {

namespace json = boost::json;
using Clock = std::chrono::steady_clock;
constexpr size_t kLargestBlob = 64u << 20;

struct Blob {
    std::string bytes;
    uint64_t from = 0;         // where it was asked to begin
    size_t refuse_after = ~0u; // the sink says no at this many bytes
    std::string fault;
};

class RegistryBench : public Bench {
  public:
    RegistryBench(const Subject &subject, const std::string &dir) : Bench(subject, dir) {}

    bool handles(const RegistryReference &ref) {
        const gantry_reference raw = detail::to_c(ref);
        int32_t yes = -1;
        const RecordedCall call;
        call.require_ok(table<gantry_registry_v1>().handles(driver(), call.raw(), &raw, &yes), "handles");
        require(yes == 0 || yes == 1, "handles: the answer is " + std::to_string(yes));
        return yes == 1;
    }
    gantry_status resolve(const RecordedCall &call, const RegistryReference &ref, Descriptor &out,
                          std::string *body, const Credential *credential = nullptr) {
        const gantry_reference raw = detail::to_c(ref);
        gantry_credential secret{};
        if (credential) secret = detail::to_c(*credential);
        gantry_descriptor_sink sink{
            sizeof sink, 0, &out, [](void *ctx, const gantry_descriptor *d) -> gantry_status {
                if (!d || d->struct_size < sizeof *d || !d->media_type || !d->digest || !d->endpoint)
                    return GANTRY_INTERNAL;
                *static_cast<Descriptor *>(ctx) = detail::from_c(*d);
                return GANTRY_OK;
            }};
        gantry_byte_sink bytes{};
        bytes.struct_size = sizeof bytes;
        bytes.ctx = body;
        bytes.write = [](void *ctx, const void *data, size_t size) -> gantry_status {
            auto &to = *static_cast<std::string *>(ctx);
            if (to.size() + size > 4u << 20) return GANTRY_NO_SPACE;
            to.append(static_cast<const char *>(data), size);
            return GANTRY_OK;
        };
        return table<gantry_registry_v1>().resolve(driver(), call.raw(), &raw, credential ? &secret : nullptr,
                                                   &sink, body ? &bytes : nullptr);
    }
    gantry_status fetch(const RecordedCall &call, const RegistryReference &from, const Descriptor &what,
                        bool is_manifest, uint64_t offset, uint64_t length, Blob &out) {
        const gantry_reference raw = detail::to_c(from);
        const gantry_descriptor descriptor = detail::to_c(what);
        gantry_fetch fetch{};
        fetch.struct_size = sizeof fetch;
        fetch.from = &raw;
        fetch.descriptor = &descriptor;
        fetch.offset = offset;
        fetch.length = length;
        fetch.is_manifest = is_manifest;
        out.from = offset;
        gantry_blob_sink sink{
            sizeof sink, 0, &out,
            [](void *ctx, const char *endpoint, uint64_t at, const void *data, size_t size) -> gantry_status {
                auto &blob = *static_cast<Blob *>(ctx);
                if (!endpoint) blob.fault = "fetch: bytes from no endpoint";
                if (at != blob.from + blob.bytes.size())
                    blob.fault = "fetch: bytes at " + std::to_string(at) + " after " +
                                 std::to_string(blob.from + blob.bytes.size());
                if (blob.bytes.size() >= blob.refuse_after || blob.bytes.size() + size > kLargestBlob)
                    return GANTRY_NO_SPACE;
                blob.bytes.append(static_cast<const char *>(data), size);
                return GANTRY_OK;
            }};
        const gantry_status status = table<gantry_registry_v1>().fetch(driver(), call.raw(), &fetch, &sink);
        require(out.fault.empty(), out.fault);
        return status;
    }
    struct Text {
        std::string all;
        int count = 0;
    };
    static gantry_endpoint_line_sink lines_to(Text &text) {
        return {sizeof(gantry_endpoint_line_sink), 0, &text,
                [](void *ctx, const gantry_endpoint_line *line) -> gantry_status {
                    if (!line || line->struct_size < GANTRY_ENDPOINT_LINE_SIZE_1_0 || !line->url ||
                        !line->role || !line->state || !line->reason)
                        return GANTRY_INTERNAL;
                    auto &to = *static_cast<Text *>(ctx);
                    to.all += std::string(line->url) + " " + line->role + " " + line->state + " " +
                              line->reason + "\n";
                    ++to.count;
                    return GANTRY_OK;
                }};
    }
    std::string explain(const RegistryReference &ref, int &lines) {
        Text text;
        const gantry_endpoint_line_sink sink = lines_to(text);
        const gantry_reference raw = detail::to_c(ref);
        const RecordedCall call;
        call.require_ok(table<gantry_registry_v1>().explain(driver(), call.raw(), &raw, &sink), "explain");
        lines = text.count;
        return text.all;
    }
    std::string whole(const RegistryReference &from, const Descriptor &what, bool is_manifest) {
        Blob blob;
        const RecordedCall call;
        call.require_ok(fetch(call, from, what, is_manifest, 0, 0, blob), "fetch of " + what.digest);
        require(sha256_of(blob.bytes) == what.digest,
                "fetch: the bytes of " + what.digest + " have the digest " + sha256_of(blob.bytes));
        return blob.bytes;
    }
};

RegistryReference completed(const std::string &text) {
    const ImageReference parsed = parse_reference(text, "docker.io", true);
    return {parsed.registry, parsed.repository, parsed.tag, parsed.digest};
}

RegistryReference asked(const Subject &subject) {
    if (subject.reference.empty()) throw Skipped("needs an image: --reference REGISTRY/REPOSITORY:TAG");
    return completed(subject.reference);
}

struct Image {
    Descriptor manifest, blob; // the largest blob
    std::string body;
};

/// The image behind the reference, the first of an index.
Image image_of(RegistryBench &bench, const RegistryReference &ref) {
    Image out;
    const RecordedCall call;
    call.require_ok(bench.resolve(call, ref, out.manifest, &out.body), "resolve");
    if (out.body.empty()) out.body = bench.whole(ref, out.manifest, true);
    json::object root = json::parse(out.body).as_object();
    if (const auto *list = root.if_contains("manifests")) {
        const json::object &first = list->as_array().at(0).as_object();
        out.manifest = {first.at("mediaType").as_string().c_str(), first.at("digest").as_string().c_str(),
                        first.at("size").to_number<uint64_t>(), ""};
        out.body = bench.whole(ref, out.manifest, true);
        root = json::parse(out.body).as_object();
    }
    json::array blobs = root.at("layers").as_array();
    blobs.push_back(root.at("config"));
    for (const json::value &one : blobs) {
        const json::object &d = one.as_object();
        const auto size = d.at("size").to_number<uint64_t>();
        if (size >= out.blob.size && size <= kLargestBlob)
            out.blob = {d.at("mediaType").as_string().c_str(), d.at("digest").as_string().c_str(), size, ""};
    }
    require(!out.blob.digest.empty(), "the image has no blob");
    return out;
}

void asks_no_network(const Subject &subject, const std::string &dir) {
    on_own_host(subject); // nothing answers there
    RegistryBench bench(subject, dir);
    for (const char *text :
         {"docker.io/library/busybox:latest", "registry.invalid/a/b:c", "192.0.2.77:5000/x:y"}) {
        const RegistryReference ref = completed(text);
        const auto begin = Clock::now();
        const bool wanted = bench.handles(ref);
        int lines = 0;
        if (wanted) bench.explain(ref, lines);
        require(!wanted || lines > 0, std::string("explain: no endpoint for ") + text);
        require(Clock::now() - begin < std::chrono::seconds(1),
                std::string("handles and explain of ") + text + " took longer than a second");
    }
}

void unreachable(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    RegistryBench bench(subject, dir);
    for (const char *text : {"127.0.0.1:1/x:y", "registry.invalid/a/b:c"}) {
        const RegistryReference ref = completed(text);
        if (!bench.handles(ref)) continue;
        Descriptor what;
        const RecordedCall call;
        call.require_class(bench.resolve(call, ref, what, nullptr),
                           {GANTRY_UNAVAILABLE, GANTRY_NOT_FOUND, GANTRY_UNSUPPORTED, GANTRY_INVALID_ARGUMENT,
                            GANTRY_PERMISSION_DENIED}, // a policy of the driver
                           std::string("resolve of ") + text + ", which nobody serves");
        Blob blob;
        const RecordedCall second;
        second.require_class(
            bench.fetch(second, ref, {"", "sha256:" + std::string(64, '0'), 10, ""}, false, 0, 0, blob),
            {GANTRY_UNAVAILABLE, GANTRY_NOT_FOUND, GANTRY_UNSUPPORTED, GANTRY_INVALID_ARGUMENT,
             GANTRY_PERMISSION_DENIED}, // a policy of the driver
            std::string("fetch from ") + text + ", which nobody serves");
        require(blob.bytes.empty(), "fetch: bytes from nobody");
    }
}

void endpoints(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    RegistryBench bench(subject, dir);
    const auto &table = bench.table<gantry_registry_v1>();
    if (!GANTRY_HAS(&table, test) || (!table.status && !table.test))
        throw Skipped("the driver tells nothing of its endpoints");
    RegistryBench::Text text;
    const gantry_endpoint_line_sink sink = RegistryBench::lines_to(text);
    if (table.status) {
        const auto begin = Clock::now();
        const RecordedCall call;
        call.require_ok(table.status(bench.driver(), call.raw(), &sink), "status");
        require(Clock::now() - begin < std::chrono::seconds(1), "status took longer than a second");
    }
    const RegistryReference ref = completed("127.0.0.1:1/x:y");
    if (!table.test || !bench.handles(ref)) return;
    const gantry_reference raw = detail::to_c(ref);
    RecordedCall call;
    call.deadline_in_ms(20'000);
    call.require_class(table.test(bench.driver(), call.raw(), &raw, nullptr, &sink),
                       {GANTRY_OK, GANTRY_UNSUPPORTED, GANTRY_PERMISSION_DENIED},
                       "test of an endpoint that nobody serves, which is a line of the answer");
}

void secrets(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    RegistryBench bench(subject, dir);
    const RegistryReference ref = completed("127.0.0.1:1/x:y");
    if (!bench.handles(ref)) throw Skipped("the driver does not want references of 127.0.0.1:1");
    const Credential credential{ref.registry, "kit-user", "kit-password-5f1c", "", ""};
    Descriptor what;
    const RecordedCall call;
    bench.resolve(call, ref, what, nullptr, &credential);
    int lines = 0;
    for (const std::string &text : {call.message(), call.logged(), bench.explain(ref, lines)})
        require(text.find("kit-password-5f1c") == text.npos, "a password is told: " + text);
}

/// A server that accepts and says nothing; ends with the process.
uint16_t stalling_server() {
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (bind(server, reinterpret_cast<sockaddr *>(&at), size) != 0 || listen(server, 16) != 0 ||
        getsockname(server, reinterpret_cast<sockaddr *>(&at), &size) != 0)
        throw Error::from_errno(errno, "listen");
    return ntohs(at.sin_port); // the kernel accepts for it
}

void gives_up(const Subject &subject, const std::string &dir) {
    on_own_host(subject);
    RegistryBench bench(subject, dir);
    const RegistryReference ref = completed("127.0.0.1:" + std::to_string(stalling_server()) + "/x:y");
    if (!bench.handles(ref)) throw Skipped("the driver does not want references of a server on loopback");
    const auto measure = [&](const RecordedCall &call, gantry_status word, const char *what) {
        const auto begin = Clock::now();
        Descriptor out;
        const gantry_status status = bench.resolve(call, ref, out, nullptr);
        const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
        if (status == GANTRY_UNSUPPORTED || status == GANTRY_NOT_FOUND || status == GANTRY_PERMISSION_DENIED)
            throw Skipped("the driver does not talk to a server on loopback");
        call.require_class(status, {word}, what);
        require(took < 3000, std::string(what) + " of a silent server took " + std::to_string(took) + " ms");
    };
    RecordedCall cancelled, late, later;
    late.deadline_in_ms(400);
    measure(late, GANTRY_DEADLINE, "resolve with 400 ms to go");
    cancelled.cancel_at_once();
    measure(cancelled, GANTRY_CANCELLED, "resolve, cancelled");
    later.cancel_later();
    std::thread soon([&] {
        usleep(200'000); // in the midst of waiting for the server: the moment is the point
        later.cancel_now();
    });
    try {
        measure(later, GANTRY_CANCELLED, "resolve, cancelled while it waits");
    } catch (...) {
        soon.join();
        throw;
    }
    soon.join();
}

void resolves(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    require(bench.handles(ref), "handles: the driver does not want " + subject.reference);
    Descriptor first, second;
    std::string body;
    const RecordedCall one, two;
    one.require_ok(bench.resolve(one, ref, first, &body), "resolve");
    two.require_ok(bench.resolve(two, ref, second, nullptr), "resolve without a body");
    require(first.digest.starts_with("sha256:") && first.digest.size() == 71,
            "resolve: \"" + first.digest + "\" is no digest");
    require(first.digest == second.digest, "resolve: two digests for one tag");
    require(!first.media_type.empty(), "resolve: no media type");
    require(!first.endpoint.empty(), "resolve: nobody answered");
    require(body.empty() || sha256_of(body) == first.digest, "resolve: the body is not what the digest says");
    require(body.empty() || first.size == 0 || first.size == body.size(),
            "resolve: the size is " + std::to_string(first.size) + ", the body has " +
                std::to_string(body.size()));
    RegistryReference pinned = ref;
    pinned.digest = first.digest;
    const RecordedCall three;
    Descriptor third;
    three.require_ok(bench.resolve(three, pinned, third, nullptr), "resolve of a digest");
    require(third.digest == first.digest, "resolve of a digest gives another one");
}

void fetches(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    const Image image = image_of(bench, ref);
    require(bench.whole(ref, image.manifest, true) == image.body,
            "fetch: another manifest than resolve gave");
    const std::string whole = bench.whole(ref, image.blob, false);
    const uint64_t third = std::max<uint64_t>(whole.size() / 3, 1);
    std::string pieces;
    while (pieces.size() < whole.size()) {
        Blob piece;
        const RecordedCall call;
        const uint64_t length = std::min<uint64_t>(third, whole.size() - pieces.size());
        call.require_ok(bench.fetch(call, ref, image.blob, false, pieces.size(), length, piece),
                        "fetch of a piece");
        require(piece.bytes.size() == length, "fetch: " + std::to_string(piece.bytes.size()) +
                                                  " bytes instead of " + std::to_string(length));
        pieces += piece.bytes;
    }
    require(pieces == whole, "fetch: the pieces are not the whole");
    Blob rest;
    const RecordedCall call;
    call.require_ok(bench.fetch(call, ref, image.blob, false, third, 0, rest),
                    "fetch from an offset to the end");
    require(rest.bytes == whole.substr(third), "fetch: from an offset to the end is not the rest");
}

void sinks_are_obeyed(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    const Image image = image_of(bench, ref);
    Blob blob;
    blob.refuse_after = 0;
    const RecordedCall call;
    const gantry_status status = bench.fetch(call, ref, image.blob, false, 0, 0, blob);
    require(status == GANTRY_NO_SPACE,
            std::string("fetch: the sink said \"no space\", the call returned \"") + class_name(status) +
                "\"");
    RecordedCall cancelled;
    cancelled.cancel_at_once();
    Blob none;
    cancelled.require_class(bench.fetch(cancelled, ref, image.blob, false, 0, 0, none),
                            {GANTRY_CANCELLED, GANTRY_OK}, "fetch, cancelled");
}

void what_is_missing(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    RegistryReference other = ref;
    other.tag = "no-such-tag-of-the-kit";
    other.digest.clear();
    Descriptor what;
    const RecordedCall first, second;
    // A source of bytes alone, which cannot be judged by a tag, says so of every tag.
    first.require_class(bench.resolve(first, other, what, nullptr),
                        {GANTRY_NOT_FOUND, ref.tag.empty() ? GANTRY_UNSUPPORTED : GANTRY_NOT_FOUND},
                        "resolve of an unknown tag");
    Blob blob;
    second.require_class(bench.fetch(second, ref,
                                     {"application/octet-stream", "sha256:" + std::string(64, '0'), 10, ""},
                                     false, 0, 0, blob),
                         {GANTRY_NOT_FOUND}, "fetch of an unknown digest");
}

void concurrency(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    const Image image = image_of(bench, ref);
    in_parallel(8, [&](int thread) {
        for (int i = 0; i < 4; ++i) {
            Descriptor what;
            const RecordedCall call;
            call.require_ok(bench.resolve(call, ref, what, nullptr), "resolve in parallel");
            bench.whole(ref, (thread + i) % 2 ? image.blob : image.manifest, (thread + i) % 2 == 0);
        }
    });
}

void lists_tags(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    const auto slot = bench.table<gantry_registry_v1>().tags;
    if (!slot) throw Skipped("the driver lists no tags");
    std::set<std::string> tags;
    gantry_string_sink sink{};
    sink.struct_size = sizeof sink;
    sink.ctx = &tags;
    sink.add = [](void *ctx, const char *tag) -> gantry_status {
        if (!tag) return GANTRY_INTERNAL;
        static_cast<std::set<std::string> *>(ctx)->insert(tag);
        return GANTRY_OK;
    };
    const gantry_reference raw = detail::to_c(ref);
    const RecordedCall call;
    const gantry_status status = slot(bench.driver(), call.raw(), &raw, nullptr, &sink);
    if (status == GANTRY_UNSUPPORTED) throw Skipped("the driver lists no tags");
    call.require_ok(status, "tags");
    require(ref.tag.empty() || tags.contains(ref.tag), "tags: " + ref.tag + " is missing");
    sink.add = [](void *, const char *) -> gantry_status { return GANTRY_NO_SPACE; };
    const RecordedCall refused;
    const gantry_status word = slot(bench.driver(), refused.raw(), &raw, nullptr, &sink);
    require(word == GANTRY_NO_SPACE,
            std::string("tags: the sink said \"no space\", the call returned \"") + class_name(word) + "\"");
}

void pushes(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    const auto slot = bench.table<gantry_registry_v1>().push;
    if (!slot) throw Skipped("the driver is read-only");
    std::string bytes(300'000, 'x');
    for (size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = char('a' + (i * 7 + i / 251 + size_t(getpid())) % 26);
    const Descriptor blob{"application/octet-stream", sha256_of(bytes), bytes.size(), ""};
    const gantry_reference to = detail::to_c(ref);
    const gantry_descriptor descriptor = detail::to_c(blob);
    gantry_push push{};
    push.struct_size = sizeof push;
    push.to = &to;
    push.descriptor = &descriptor;
    push.mount_from = "";
    gantry_blob_source source{
        sizeof source, 0, &bytes,
        [](void *ctx, uint64_t at, void *buffer, size_t size, size_t *got) -> gantry_status {
            const auto &all = *static_cast<std::string *>(ctx);
            *got = at >= all.size() ? 0 : std::min(size, size_t(all.size() - at));
            memcpy(buffer, all.data() + std::min<size_t>(at, all.size()), *got);
            return GANTRY_OK;
        }};
    const RecordedCall call, again;
    const gantry_status status = slot(bench.driver(), call.raw(), &push, &source);
    if (status == GANTRY_UNSUPPORTED || status == GANTRY_PERMISSION_DENIED)
        throw Skipped("this registry takes no pushes: " + call.message());
    call.require_ok(status, "push");
    require(bench.whole(ref, blob, false) == bytes, "push: fetch gives other bytes");
    again.require_class(slot(bench.driver(), again.raw(), &push, &source), {GANTRY_OK, GANTRY_ALREADY_EXISTS},
                        "push of what is there");
}

void calls_leave_nothing(const Subject &subject, const std::string &dir) {
    const RegistryReference ref = asked(subject);
    RegistryBench bench(subject, dir);
    Footprint before;
    for (int i = 0; i < 4; ++i) {
        const Image image = image_of(bench, ref);
        bench.whole(ref, image.blob, false);
        if (i == 1) before = Footprint::take(); // connections that are kept are there now
    }
    const std::string left = Footprint::take().changes_since(before);
    require(left.empty(), left);
}

} // namespace

std::vector<Case> registry_cases() {
    constexpr int kKind = GANTRY_KIND_REGISTRY;
    return {
        {"registry.offline", "handles and explain are quick and ask no network", kKind, true,
         asks_no_network},
        {"registry.unreachable", "a registry that nobody serves is reported as such", kKind, true,
         unreachable},
        {"registry.endpoints", "endpoints are told without a network, and tested without a failure", kKind,
         true, endpoints},
        {"registry.secrets", "credentials are in no message, log or explanation", kKind, true, secrets},
        {"registry.gives-up", "a silent server costs no more than the deadline or the cancellation", kKind,
         true, gives_up},
        {"registry.resolve", "a tag means one digest, and the body is its content", kKind, false, resolves},
        {"registry.fetch", "bytes come whole, in pieces, and from any offset", kKind, false, fetches},
        {"registry.sinks", "a sink that says no ends the call with its word", kKind, false, sinks_are_obeyed},
        {"registry.missing", "what is not there is not found", kKind, false, what_is_missing},
        {"registry.threads", "eight threads do not disturb each other", kKind, false, concurrency},
        {"registry.tags", "the list of tags has the tag", kKind, false, lists_tags},
        {"registry.push", "what is pushed can be fetched", kKind, false, pushes},
        {"registry.leaks", "calls leave no descriptor, mount or process", kKind, false, calls_leave_nothing},
    };
}

} // namespace gantry::kit
