// Images in and out as archives, as docker save and load do it, and copies between registries, archives and
// the store. Archives are streamed both ways. For a copy from or to a file the client reads and writes the
// archive, with its user's rights; the daemon opens no path that a client names.
#include "core/api/dialect.h"
#include "core/api/engine.h"
#include "core/api/progress.h"
#include "core/base/cancel.h"
#include "core/image/transfer.h"
#include "core/layer/archive_compressor.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

namespace json = boost::json;

namespace gantry::api {

namespace {

std::vector<std::string> all(const Request &request, const std::string &key) {
    std::vector<std::string> out;
    if (const auto found = request.query.find(key); found != request.query.end())
        for (const std::string &value : found->second)
            if (!value.empty()) out.push_back(value);
    return out;
}

ArchiveFormat format_of(const std::string &text) {
    if (text.empty() || text == "docker-archive") return ArchiveFormat::kDocker;
    if (text == "oci-archive") return ArchiveFormat::kOci;
    throw Error(ErrorClass::kInvalidArgument, "save images: unknown format " + text,
                "the formats are docker-archive and oci-archive");
}

std::function<size_t(void *, size_t)> body_of(Request &request, const char *what) {
    return [&request, what](void *data, size_t size) {
        try {
            return request.read_body(data, size);
        } catch (const HttpError &error) {
            throw Error(ErrorClass::kInvalidArgument, std::string(what) + ": " + error.message);
        }
    };
}

/// The head goes out with the first bytes, so that what fails before has a status.
ByteSink archive_to(Exchange &x) {
    return [&x](const void *bytes, size_t size) {
        if (!x.response.started()) x.response.begin(200, "application/x-tar");
        x.response.write({static_cast<const char *>(bytes), size});
    };
}

void save(const Engine &engine, Exchange &x, const std::vector<std::string> &names) {
    const ArchiveFormat format = format_of(x.request.arg("format"));
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    ArchiveCompressor out(x.request.arg("compress"), archive_to(x));
    ImageTransfer(*engine.images)
        .save(
            names, format, [&](const void *bytes, size_t size) { out.write(bytes, size); }, cancel);
    out.finish();
}

void load(const Engine &engine, Exchange &x) {
    const bool quiet = x.request.flag("quiet");
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    ProgressStream stream(x.request, x.response, cancel);
    try {
        const auto images =
            ImageTransfer(*engine.images)
                .load(body_of(x.request, "read image archive"), {x.request.arg("platform"), "", std::nullopt},
                      cancel, [&](const PullProgress &p) {
                          if (!quiet) stream.line(p);
                      });
        for (const LoadedImage &image : images) {
            for (const std::string &name : image.names)
                stream.line({{"stream", "Loaded image: " + name + "\n"}});
            if (image.names.empty()) stream.line({{"stream", "Loaded image ID: " + image.id + "\n"}});
        }
    } catch (const Error &error) {
        if (!x.response.started()) throw;
        stream.failed(error);
    }
}

struct EndText {
    std::string transport, rest;
};
EndText split(const std::string &text, const char *which) {
    for (const char *transport : {"docker://", "gantry:", "oci-archive:", "docker-archive:"})
        if (text.starts_with(transport)) return {transport, text.substr(std::string_view(transport).size())};
    throw Error(ErrorClass::kInvalidArgument,
                std::string("copy image: ") + which + " \"" + text +
                    "\" is neither docker://, gantry:, oci-archive: nor docker-archive:");
}

void copy(const Engine &engine, Exchange &x) {
    const Request &q = x.request;
    const RegistryConfig &names = engine.images->config();
    const auto credential = [&](const char *header, const std::string &written, const ImageReference &ref) {
        return credential_for(q.header(header),
                              parse_reference(written, names.default_registry, false).registry, ref.registry);
    };
    const EndText src = split(q.arg("src"), "source"), dst = split(q.arg("dst"), "destination");
    CopyEnd from, to;
    if (src.transport == "docker://") {
        from.kind = CopyEnd::kRegistry;
        from.ref = parse_reference(src.rest, names, true);
        from.credential = credential("x-registry-auth", src.rest, from.ref);
    } else if (src.transport == "gantry:") {
        from.kind = CopyEnd::kStore;
        from.name = src.rest;
    } else {
        from.kind = CopyEnd::kArchive;
        from.name = src.rest;
    }
    CopyOptions options;
    if (dst.transport == "docker://") {
        to.kind = CopyEnd::kRegistry;
        to.ref = parse_reference(dst.rest, names, true);
        if (!to.ref.tag.empty()) to.ref.digest.clear();
        to.credential = credential("x-registry-auth-destination", dst.rest, to.ref);
    } else if (dst.transport == "gantry:") {
        to.kind = CopyEnd::kStore;
        to.ref = parse_reference(dst.rest, names, true);
        if (!to.ref.digest.empty())
            throw Error(ErrorClass::kInvalidArgument, "refusing to create a tag with a digest reference");
    } else {
        to.kind = CopyEnd::kArchive;
        to.name = dst.rest;
        options.format = dst.transport == "oci-archive:" ? ArchiveFormat::kOci : ArchiveFormat::kDocker;
    }
    options.all = q.flag("all");
    options.platforms = all(q, "platform");
    if (options.all && !options.platforms.empty())
        throw Error(ErrorClass::kInvalidArgument, "copy image: either all platforms or some");
    if (to.kind == CopyEnd::kArchive && from.kind != CopyEnd::kArchive) {
        const std::string body = x.request.body_json();
        boost::system::error_code failed;
        const json::value value = body.empty() ? json::value(nullptr) : json::parse(body, failed);
        if (value.is_object())
            if (const auto *have = value.get_object().if_contains("Have"); have && have->is_array())
                for (const json::value &digest : have->get_array())
                    if (digest.is_string()) options.have.emplace(digest.get_string());
    }
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    ProgressStream stream(x.request, x.response, cancel);
    const bool archive = to.kind == CopyEnd::kArchive;
    try {
        const CopyResult result = ImageTransfer(*engine.images)
                                      .copy(from, to, options, body_of(x.request, "read image archive"),
                                            archive_to(x), cancel, [&](const PullProgress &p) {
                                                if (!archive) stream.line(p);
                                            });
        if (!archive)
            stream.line({{"aux",
                          {{"Digest", result.digest},
                           {"Blobs", result.blobs},
                           {"Skipped", result.skipped},
                           {"Bytes", result.bytes}}}});
    } catch (const Error &error) {
        if (archive || !x.response.started()) throw;
        stream.failed(error);
    }
}

} // namespace

void add_image_archive_routes(Router &router, const Engine &e) {
    router.add("GET", "/images/get", [&e](Exchange &x) { save(e, x, all(x.request, "names")); });
    router.add("GET", "/images/{name...}/get", [&e](Exchange &x) { save(e, x, {x.request.params[0]}); });
    router.add("POST", "/images/load", [&e](Exchange &x) { load(e, x); });
    router.add("POST", "/gantry/v1/images/copy", [&e](Exchange &x) { copy(e, x); });
}

} // namespace gantry::api
