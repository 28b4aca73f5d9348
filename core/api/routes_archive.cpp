// commit, diff, export and the archive calls behind `docker cp`.
#include "core/api/dialect.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/container/containers.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <sys/stat.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

/// Go's os.FileMode, which the clients decode.
uint32_t go_mode(uint32_t mode) {
    constexpr uint32_t kDir = 1u << 31, kSymlink = 1u << 27, kDevice = 1u << 26, kPipe = 1u << 25,
                       kSocket = 1u << 24, kSetuid = 1u << 23, kSetgid = 1u << 22, kCharDevice = 1u << 21,
                       kSticky = 1u << 20;
    uint32_t out = mode & 0777;
    if (S_ISDIR(mode)) out |= kDir;
    if (S_ISLNK(mode)) out |= kSymlink;
    if (S_ISBLK(mode)) out |= kDevice;
    if (S_ISCHR(mode)) out |= kDevice | kCharDevice;
    if (S_ISFIFO(mode)) out |= kPipe;
    if (S_ISSOCK(mode)) out |= kSocket;
    if (mode & S_ISUID) out |= kSetuid;
    if (mode & S_ISGID) out |= kSetgid;
    if (mode & S_ISVTX) out |= kSticky;
    return out;
}

std::string base64(std::string_view text) {
    static const char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string out;
    for (size_t i = 0; i < text.size(); i += 3) {
        uint32_t bits = 0;
        for (size_t k = 0; k < 3; ++k)
            bits = bits << 8 | (i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0);
        for (size_t k = 0; k < 4; ++k)
            out += i + k > text.size() ? '=' : kDigits[bits >> (18 - 6 * k) & 63];
    }
    return out;
}

void send_stat(Exchange &x, const PathStat &stat) {
    x.response.header("X-Docker-Container-Path-Stat",
                      base64(json::serialize(json::object{{"name", stat.name},
                                                          {"size", stat.size},
                                                          {"mode", go_mode(stat.mode)},
                                                          {"mtime", rfc3339(stat.mtime_ns)},
                                                          {"linkTarget", stat.link_target}})));
}

const std::string &path_of(Exchange &x) {
    const std::string &path = x.request.arg("path");
    if (path.empty()) throw Error(ErrorClass::kInvalidArgument, "bad parameter: 'path' cannot be empty");
    if (path.find('\0') != path.npos)
        throw Error(ErrorClass::kInvalidArgument, "bad parameter: 'path' holds a zero byte");
    return path;
}

ByteSink body_of(Exchange &x) {
    return [&x](const void *bytes, size_t size) {
        x.response.write({static_cast<const char *>(bytes), size});
    };
}

void commit(const Engine &engine, Exchange &x) {
    const Request &q = x.request;
    const std::string &container = q.arg("container");
    if (container.empty())
        throw Error(ErrorClass::kInvalidArgument, "commit container: the parameter container is missing");
    CommitRequest request;
    if (!q.arg("repo").empty()) {
        std::string text = q.arg("repo");
        if (!q.arg("tag").empty()) text += ":" + q.arg("tag");
        request.ref = parse_reference(text, engine.images->config(), true);
        if (!request.ref->digest.empty())
            throw Error(ErrorClass::kInvalidArgument, "refusing to create a tag with a digest reference");
    }
    request.author = q.arg("author");
    request.comment = q.arg("comment");
    if (auto found = q.query.find("changes"); found != q.query.end())
        for (const std::string &change : found->second)
            if (!change.empty()) request.changes.push_back(change);
    request.pause = q.flag("pause", true);
    const std::string body = x.request.body_json();
    if (body.find_first_not_of(" \t\r\n") != body.npos) {
        boost::system::error_code failed;
        const json::value value = json::parse(body, failed);
        if (failed || !(value.is_object() || value.is_null()))
            throw Error(ErrorClass::kInvalidArgument, "commit container: the body is no JSON object");
        if (value.is_object() && !value.get_object().empty()) request.overrides = body;
    }
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    reply(x, 201, {{"Id", engine.containers->commit(container, request, cancel)}});
}

void changes(const Engine &engine, Exchange &x) {
    json::array out;
    for (const Change &change : engine.containers->changes(x.request.params[0])) {
        const int kind = change.kind == GANTRY_CHANGE_ADDED     ? 1
                         : change.kind == GANTRY_CHANGE_DELETED ? 2
                                                                : 0;
        out.push_back({{"Path", change.path}, {"Kind", kind}});
    }
    reply(x, 200, out.empty() ? json::value(nullptr) : json::value(std::move(out)));
}

void export_tree(const Engine &engine, Exchange &x) {
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    engine.containers->export_tree(
        x.request.params[0],
        [&](const void *bytes, size_t size) {
            // With the first bytes, so that an early error has a status of its own.
            if (!x.response.started()) x.response.begin(200, "application/octet-stream");
            x.response.write({static_cast<const char *>(bytes), size});
        },
        cancel);
}

void get_archive(const Engine &engine, Exchange &x) {
    CancelSource cancel;
    const HangupWatch watch(x.connection, cancel);
    engine.containers->read_archive(
        x.request.params[0], path_of(x),
        [&](const PathStat &stat) {
            send_stat(x, stat);
            x.response.begin(200, "application/x-tar");
        },
        body_of(x), cancel);
}

void put_archive(const Engine &engine, Exchange &x) {
    ExtractOptions options;
    options.no_overwrite_dir_non_dir = x.request.flag("noOverwriteDirNonDir");
    options.container_owner = x.request.flag("copyUIDGID");
    const CancelSource cancel;
    engine.containers->write_archive(
        x.request.params[0], path_of(x), options,
        [&](void *bytes, size_t size) {
            try {
                return x.request.read_body(bytes, size);
            } catch (const HttpError &error) {
                throw Error(ErrorClass::kInvalidArgument, "read archive: " + error.message);
            }
        },
        cancel);
    x.response.empty(200);
}

} // namespace

void add_archive_routes(Router &router, const Engine &e) {
    router.add("POST", "/commit", [&e](Exchange &x) { commit(e, x); });
    router.add("GET", "/containers/{name}/changes", [&e](Exchange &x) { changes(e, x); });
    router.add("GET", "/containers/{name}/export", [&e](Exchange &x) { export_tree(e, x); });
    router.add("HEAD", "/containers/{name}/archive", [&e](Exchange &x) {
        send_stat(x, e.containers->stat_path(x.request.params[0], path_of(x)));
        x.response.empty(200);
    });
    router.add("GET", "/containers/{name}/archive", [&e](Exchange &x) { get_archive(e, x); });
    router.add("PUT", "/containers/{name}/archive", [&e](Exchange &x) { put_archive(e, x); });
}

} // namespace gantry::api
