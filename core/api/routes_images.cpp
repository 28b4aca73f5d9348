// /images. Names contain slashes and colons, so the routes capture the middle of the path.
#include "core/api/dialect.h"
#include "core/api/progress.h"
#include "core/api/registry_call.h"
#include "core/api/render.h"
#include "core/base/ids.h"
#include "core/container/containers.h"
#include "core/image/images.h"
#include "core/plugin/host.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <fmt/format.h>
#include <fnmatch.h>

namespace json = boost::json;

namespace gantry::api {

namespace {

ImageReference reference_of(const Engine &engine, const std::string &name, const std::string &tag,
                            bool default_tag) {
    std::string text = name;
    if (!tag.empty()) text += (tag.find(':') == tag.npos ? ":" : "@") + tag;
    return parse_reference(text, engine.images->config(), default_tag);
}

/// What the request's credential is worth for `ref`, which was written as `name`.
std::optional<Credential> credential_of(const Engine &engine, const Exchange &x, const std::string &name,
                                        const ImageReference &ref) {
    const std::string &fallback = engine.images->config().default_registry;
    return credential_for(x.request.header("x-registry-auth"),
                          parse_reference(name, fallback, false).registry, ref.registry);
}

void pull(const Engine &engine, Exchange &x) {
    const Request &q = x.request;
    ImageReference ref = reference_of(engine, q.arg("fromImage"), q.arg("tag"), false);
    const bool all_tags = ref.tag.empty() && ref.digest.empty();
    const auto credential = credential_of(engine, x, q.arg("fromImage"), ref);
    CancelSource cancel;
    HangupWatch watch(x.connection, cancel);
    ProgressStream stream(x.request, x.response, cancel);
    try {
        engine.images->pull(ref, all_tags, q.arg("platform"), credential, cancel,
                            [&](const PullProgress &p) { stream.line(p); });
    } catch (const Error &error) {
        if (!x.response.started()) throw;
        stream.failed(error);
    }
    if (!x.response.started()) x.response.begin(200, "application/json");
}

void push(const Engine &engine, Exchange &x) {
    const ImageReference ref = reference_of(engine, x.request.params[0], x.request.arg("tag"), false);
    const auto credential = credential_of(engine, x, x.request.params[0], ref);
    CancelSource cancel;
    HangupWatch watch(x.connection, cancel);
    ProgressStream stream(x.request, x.response, cancel);
    try {
        engine.images->push(
            ref, credential, cancel, [&](const PullProgress &p) { stream.line(p); },
            [&](const PushedTag &done) {
                stream.line({{"progressDetail", json::object()},
                             {"aux", {{"Tag", done.tag}, {"Digest", done.digest}, {"Size", done.size}}}});
            });
    } catch (const Error &error) {
        if (!x.response.started()) throw;
        stream.failed(error);
    }
}

void import(const Engine &engine, Exchange &x) {
    Request &q = x.request;
    if (q.arg("fromSrc") != "-")
        throw Error(ErrorClass::kUnsupported,
                    "import " + q.arg("fromSrc") + ": only a tar sent with the request can be imported",
                    "download it and pipe it: curl URL | gantry import - NAME");
    std::optional<ImageReference> ref;
    if (!q.arg("repo").empty()) ref = reference_of(engine, q.arg("repo"), q.arg("tag"), true);
    std::vector<std::string> changes;
    if (auto found = q.query.find("changes"); found != q.query.end())
        for (const std::string &change : found->second)
            if (!change.empty()) changes.push_back(change);
    CancelSource cancel;
    ProgressStream stream(x.request, x.response, cancel);
    const std::string id = engine.images->import(
        [&](void *data, size_t size) {
            try {
                return q.read_body(data, size);
            } catch (const HttpError &error) {
                throw Error(ErrorClass::kInvalidArgument, "read import stream: " + error.message);
            }
        },
        ref, q.arg("message"), changes, q.arg("platform"), cancel);
    stream.line({{"status", id}});
}

bool reference_fits(const Filters &filters, ImageInfo &image) {
    if (!filters.has("reference")) return true;
    auto fits = [&](const std::string &name, char separator) {
        const size_t cut = name.rfind(separator);
        const std::string bare =
            cut == name.npos || name.find('/', cut) != name.npos ? name : name.substr(0, cut);
        for (const std::string &pattern : filters.values("reference"))
            if (fnmatch(pattern.c_str(), name.c_str(), FNM_PATHNAME) == 0 ||
                fnmatch(pattern.c_str(), bare.c_str(), FNM_PATHNAME) == 0)
                return true;
        return false;
    };
    std::erase_if(image.repo_tags, [&](const std::string &tag) { return !fits(tag, ':'); });
    std::erase_if(image.repo_digests, [&](const std::string &digest) { return !fits(digest, '@'); });
    return !image.repo_tags.empty() || !image.repo_digests.empty();
}

void list(const Engine &engine, Exchange &x) {
    std::string text = x.request.arg("filters");
    if (text.empty() && !x.request.arg("filter").empty()) // until 1.40
        text =
            json::serialize(json::object{{"reference", json::array{json::string(x.request.arg("filter"))}}});
    Filters filters(text, {"before", "dangling", "label", "reference", "since", "until"});
    const int dangling = filters.boolean("dangling");
    int64_t before = INT64_MAX, since = INT64_MIN;
    if (filters.has("before")) before = engine.images->get(filters.values("before").front()).created_ns;
    if (filters.has("since")) since = engine.images->get(filters.values("since").front()).created_ns;
    if (filters.has("until")) {
        int64_t until = 0;
        if (parse_time(filters.values("until").front(), until)) before = std::min(before, until);
    }
    std::vector<ImageInfo> images = engine.images->list();
    std::stable_sort(images.begin(), images.end(),
                     [](const auto &a, const auto &b) { return a.created_ns > b.created_ns; });
    json::array out;
    for (ImageInfo &image : images) {
        const bool hangs = image.repo_tags.empty();
        if (dangling >= 0 && hangs != (dangling == 1)) continue;
        if (image.created_ns >= before || image.created_ns <= since) continue;
        if (!filters.match_labels("label", image.config.labels) || !reference_fits(filters, image)) continue;
        out.push_back(render_image_row(image, x.request.api_minor, -1));
    }
    reply(x, 200, out);
}

void history(const Engine &engine, Exchange &x) {
    json::array out;
    for (const HistoryEntry &entry : engine.images->history(x.request.params[0])) {
        json::value tags = entry.tags.empty() ? json::value(nullptr) : json::value(strings_json(entry.tags));
        out.push_back({{"Comment", entry.comment},
                       {"Created", entry.created_ns / 1'000'000'000},
                       {"CreatedBy", entry.created_by},
                       {"Id", entry.id.empty() ? "<missing>" : entry.id},
                       {"Size", entry.size},
                       {"Tags", std::move(tags)}});
    }
    reply(x, 200, out);
}

json::array deleted_json(const std::vector<Deleted> &items) {
    json::array out;
    for (const Deleted &item : items)
        out.push_back(item.untagged.empty() ? json::object{{"Deleted", item.deleted}}
                                            : json::object{{"Untagged", item.untagged}});
    return out;
}

void prune(const Engine &engine, Exchange &x) {
    Filters filters(x.request.arg("filters"), {"dangling", "label", "label!", "until"});
    for (const char *key : {"label", "label!", "until"})
        if (filters.has(key))
            throw Error(ErrorClass::kUnsupported,
                        fmt::format("prune images: the filter '{}' is not supported yet", key));
    uint64_t reclaimed = 0;
    json::array deleted = deleted_json(engine.images->prune(filters.boolean("dangling") != 0, reclaimed));
    json::value names = deleted.empty() ? json::value(nullptr) : json::value(std::move(deleted));
    reply(x, 200, {{"ImagesDeleted", std::move(names)}, {"SpaceReclaimed", reclaimed}});
}

void search(const Engine &engine, Exchange &x) {
    const std::string &term = x.request.arg("term");
    if (term.empty()) throw Error(ErrorClass::kInvalidArgument, "search images: term is needed");
    Filters filters(x.request.arg("filters"), {"is-automated", "is-official", "stars"});
    int64_t limit = parse_integer(x.request.arg("limit"), 25, "limit");
    if (limit == 0) limit = 25;
    if (limit < 1 || limit > 100)
        throw Error(ErrorClass::kInvalidArgument,
                    fmt::format("limit {} is outside the range of [1, 100]", limit));
    // "host:5000/term" asks that registry.
    const size_t slash = term.find('/');
    const std::string first = term.substr(0, slash);
    const bool named =
        slash != term.npos && (first == "localhost" || first.find_first_of(".:") != first.npos);
    const std::string registry = named ? first : engine.images->config().default_registry;
    RegistryCall call(engine, x);
    json::array out;
    for (const SearchResult &result : engine.plugins->registry()->search(
             call.call, registry, named ? term.substr(slash + 1) : term, uint32_t(limit),
             decode_credential(x.request.header("x-registry-auth")))) {
        if (filters.boolean("is-official") >= 0 && result.official != (filters.boolean("is-official") == 1))
            continue;
        if (filters.boolean("is-automated") >= 0 &&
            result.automated != (filters.boolean("is-automated") == 1))
            continue;
        if (filters.has("stars") && result.stars < parse_integer(filters.values("stars").front(), 0, "stars"))
            continue;
        out.push_back({{"star_count", result.stars},
                       {"is_official", result.official},
                       {"name", result.name},
                       {"is_automated", result.automated},
                       {"description", result.description}});
    }
    reply(x, 200, out);
}

void registry_tags(const Engine &engine, Exchange &x) {
    const std::string &name = x.request.arg("name");
    if (name.empty()) throw Error(ErrorClass::kInvalidArgument, "list tags: name is needed");
    const ImageReference ref = reference_of(engine, name, "", false);
    if (!ref.tag.empty() || !ref.digest.empty())
        throw Error(ErrorClass::kInvalidArgument, "list tags: " + name + " names a tag already");
    RegistryCall call(engine, x);
    json::array tags;
    for (std::string &tag : engine.plugins->registry()->tags(
             call.call, {ref.registry, ref.repository, "", ""}, credential_of(engine, x, name, ref)))
        tags.emplace_back(std::move(tag));
    reply(x, 200, {{"Name", ref.registry + "/" + ref.repository}, {"Tags", std::move(tags)}});
}

void distribution(const Engine &engine, Exchange &x) {
    const ImageReference ref = reference_of(engine, x.request.params[0], "", true);
    RegistryCall call(engine, x);
    std::string body;
    const Descriptor found =
        engine.plugins->registry()->resolve(call.call, {ref.registry, ref.repository, ref.tag, ref.digest},
                                            credential_of(engine, x, x.request.params[0], ref), &body);
    json::array platforms;
    boost::system::error_code error;
    json::value manifest = json::parse(body, error);
    if (!error && manifest.is_object())
        if (const json::value *list = manifest.get_object().if_contains("manifests");
            list && list->is_array())
            for (const json::value &entry : list->get_array())
                if (entry.is_object())
                    if (const json::value *platform = entry.get_object().if_contains("platform"))
                        platforms.push_back(*platform);
    json::object descriptor{{"mediaType", found.media_type}, {"digest", found.digest}, {"size", found.size}};
    reply(x, 200, {{"Descriptor", std::move(descriptor)}, {"Platforms", std::move(platforms)}});
}

} // namespace

void add_image_routes(Router &router, const Engine &e) {
    router.add("POST", "/images/create", [&e](Exchange &x) {
        if (!x.request.arg("fromImage").empty())
            pull(e, x);
        else if (!x.request.arg("fromSrc").empty())
            import(e, x);
        else
            throw Error(ErrorClass::kInvalidArgument, "pull image: fromImage or fromSrc is needed");
    });
    router.add("GET", "/images/json", [&e](Exchange &x) { list(e, x); });
    router.add("POST", "/images/prune", [&e](Exchange &x) { prune(e, x); });
    router.add("GET", "/images/{name...}/json", [&e](Exchange &x) {
        reply(x, 200, render_image(e, e.images->get(x.request.params[0]), x.request.api_minor));
    });
    router.add("GET", "/images/search", [&e](Exchange &x) { search(e, x); });
    router.add("GET", "/gantry/v1/images/tags", [&e](Exchange &x) { registry_tags(e, x); });
    router.add("GET", "/distribution/{name...}/json", [&e](Exchange &x) { distribution(e, x); });
    router.add("GET", "/images/{name...}/history", [&e](Exchange &x) { history(e, x); });
    router.add("POST", "/images/{name...}/push", [&e](Exchange &x) { push(e, x); });
    router.add("POST", "/images/{name...}/tag", [&e](Exchange &x) {
        e.images->tag(x.request.params[0],
                      reference_of(e, x.request.arg("repo"), x.request.arg("tag"), true));
        x.response.empty(201);
    });
    router.add("DELETE", "/images/{name...}", [&e](Exchange &x) {
        reply(x, 200,
              deleted_json(e.images->remove(x.request.params[0], x.request.flag("force"),
                                            !x.request.flag("noprune"))));
    });
}

} // namespace gantry::api
