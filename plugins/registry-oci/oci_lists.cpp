// Lists that a registry gives page by page: tags, referrers, its catalogue; and Docker Hub's search. They
// come from endpoints that may say what a tag means, and a page leads to the next one on the same endpoint
// only.
#include "oci_driver.h"
#include "oci_push.h"

#include <boost/json.hpp>

#include <algorithm>

namespace gantry::oci {
namespace {

namespace json = boost::json;

constexpr int kMaxPages = 200;
constexpr size_t kMaxPage = 4 << 20;
constexpr int64_t kSmallAnswer = 120'000'000'000;
constexpr size_t kMaxTags = 200'000;
const char *const kHubSearch = "https://index.docker.io";

/// The document, or null when it is no JSON object.
json::value parsed(const std::string &text) {
    json::parse_options limits;
    limits.max_depth = 32;
    boost::system::error_code failed;
    auto document = json::parse(text, failed, {}, limits);
    return failed || !document.is_object() ? json::value() : document;
}

const json::array *array_in(const json::value &document, const char *key) {
    const auto *object = document.if_object();
    const auto *list = object ? object->if_contains(key) : nullptr;
    return list ? list->if_array() : nullptr;
}

std::string lower(std::string_view text) {
    std::string out(text);
    std::transform(out.begin(), out.end(), out.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
    return out;
}

std::string one_line(std::string_view text, size_t limit) {
    std::string out;
    for (const char c : text.substr(0, limit))
        out += static_cast<unsigned char>(c) < ' ' || c == 127 ? ' ' : c;
    return out;
}

std::string text_of(const json::object &o, const char *key, size_t limit) {
    const auto *value = o.if_contains(key);
    return value && value->is_string() ? one_line(value->get_string(), limit) : std::string();
}

bool ends_all(const Error &error) {
    return error.error_class() == ErrorClass::kCancelled || error.error_class() == ErrorClass::kDeadline;
}

} // namespace

void OciDriver::list_pages(const Call &call, const Endpoint &endpoint, const std::string &registry,
                           const std::string &scope, const std::optional<Credential> &credential,
                           const std::string &path, const std::function<bool(const HttpResponse &)> &page) {
    std::string next = path;
    for (int pages = 0; pages < kMaxPages; ++pages) {
        HttpRequest wanted;
        wanted.max_body = kMaxPage;
        wanted.timeout_ns = kSmallAnswer;
        const auto response = request(call, endpoint, registry, scope, credential, wanted, next);
        if (!page(response)) return;
        const std::string link = next_link(response.header("link"));
        if (link.empty()) return;
        // A path below the endpoint's own, whatever host the registry believes to be.
        const std::string url = resolve_location(spoken_url(endpoint) + next, link);
        const std::string base_path = endpoint.url.substr(
            std::min(endpoint.url.find('/', endpoint.url.find("://") + 3), endpoint.url.size()));
        std::string to = url.substr(std::min(url.find('/', url.find("://") + 3), url.size()));
        if (!base_path.empty() && to.starts_with(base_path + "/")) to.erase(0, base_path.size());
        if (!to.starts_with("/v2/") || to == next) return;
        next = to;
    }
}

std::vector<std::string> OciDriver::tags(const Call &call, const RegistryReference &ref,
                                         const std::optional<Credential> &credential) {
    const std::string doing = "list tags of " + ref.registry + "/" + ref.repository;
    const HealthScope scope(*this, call);
    table_.check_allowed(doing, ref.registry, ref.repository);
    check_path_part(ref.repository, "repository");
    std::vector<Failure> failures;
    for (const Endpoint &e : chosen(ref.registry, Purpose::kTag, 0, false)) {
        try {
            std::vector<std::string> out;
            bool whole = true;
            list_pages(call, e, ref.registry, e.scope(ref.repository), credential,
                       e.path(ref.repository, "/tags/list?n=1000"), [&](const HttpResponse &response) {
                           if (!response.ok()) {
                               failures.push_back(judge(e, response));
                               mark_failed(failures.back());
                               return whole = false;
                           }
                           const auto document = parsed(response.body);
                           const auto *list = array_in(document, "tags");
                           if (!list) return false;
                           for (const auto &tag : *list)
                               if (tag.is_string()) out.emplace_back(tag.get_string());
                           return out.size() < kMaxTags;
                       });
            if (whole) return out;
        } catch (const TransportError &error) {
            failures.push_back({ErrorClass::kUnavailable, e.url, error.message(), 0});
            mark_failed(failures.back());
        } catch (const Error &error) {
            if (ends_all(error)) throw;
            failures.push_back({error.error_class(), e.url, error.message(), 0});
        }
    }
    throw combined(doing, failures);
}

std::string OciDriver::referrers(const Call &call, const RegistryReference &ref,
                                 const std::string &artifact_type,
                                 const std::optional<Credential> &credential) {
    const std::string doing = "list referrers of " + ref.registry + "/" + ref.repository + "@" + ref.digest;
    if (ref.digest.empty()) throw Error(ErrorClass::kInvalidArgument, "list referrers: a digest is needed");
    const HealthScope scope(*this, call);
    table_.check_allowed(doing, ref.registry, ref.repository);
    check_path_part(ref.repository, "repository");
    check_path_part(ref.digest, "digest");
    std::vector<Failure> failures;
    for (const Endpoint &e : chosen(ref.registry, Purpose::kTag, 0, false)) {
        try {
            std::string served;
            json::value merged;
            bool whole = true;
            list_pages(
                call, e, ref.registry, e.scope(ref.repository), credential,
                e.path(ref.repository,
                       "/referrers/" + ref.digest +
                           (artifact_type.empty() ? "" : "?artifactType=" + escape_query(artifact_type))),
                [&](const HttpResponse &response) {
                    auto document = response.status == 200 ? parsed(response.body) : json::value();
                    const auto *list = array_in(document, "manifests");
                    if (!list) { // no such API: a page of HTML, or one of the codes for that
                        Failure f = judge(e, response);
                        if (response.ok() || response.status == 400 || response.status == 405 ||
                            response.status == 501)
                            f = {ErrorClass::kNotFound, e.url, "it has no referrers API", 0};
                        mark_failed(f);
                        failures.push_back(std::move(f));
                        return whole = false;
                    }
                    if (served.empty()) {
                        served = response.body;
                        merged = std::move(document);
                        return true;
                    }
                    auto &all = merged.get_object()["manifests"].get_array();
                    all.insert(all.end(), list->begin(), list->end());
                    served = json::serialize(merged);
                    return served.size() < kMaxPage;
                });
            if (whole && served.size() <= kMaxPage) {
                mark_ok(e.url);
                return served;
            }
        } catch (const TransportError &error) {
            failures.push_back({ErrorClass::kUnavailable, e.url, error.message(), 0});
            mark_failed(failures.back());
        } catch (const Error &error) {
            if (ends_all(error)) throw;
            failures.push_back({error.error_class(), e.url, error.message(), 0});
        }
    }
    throw combined(doing, failures);
}

std::vector<SearchResult> OciDriver::search(const Call &call, const std::string &registry,
                                            const std::string &term, uint32_t limit,
                                            const std::optional<Credential> &credential) {
    const std::string doing = "search " + registry + " for " + one_line(term, 100);
    const HealthScope scope(*this, call);
    table_.check_allowed(doing, registry, "");
    std::string service = table_.host(registry).search_url;
    if (service.empty() && registry == "docker.io") service = kHubSearch;
    Endpoint e = endpoints(registry).back();
    std::vector<SearchResult> out;
    try {
        if (!service.empty()) {
            e.url = service;
            e.http_possible = false;
            // The password is for the registry; Docker Hub's service is part of it.
            if (service != kHubSearch && host_of(service) != registry) e.registry.clear();
            HttpRequest wanted;
            wanted.max_body = kMaxPage;
            wanted.timeout_ns = kSmallAnswer;
            const auto response =
                request(call, e, registry, "", credential, wanted,
                        "/v1/search?q=" + escape_query(term) + "&n=" + std::to_string(limit));
            if (!response.ok()) throw combined(doing, {judge(e, response)});
            const auto document = parsed(response.body);
            const auto *list = array_in(document, "results");
            if (!list)
                throw Error(ErrorClass::kUnavailable, doing + ": " + service + " gave no list of results");
            for (const auto &item : *list) {
                const auto *o = item.if_object();
                if (!o || out.size() >= limit) continue;
                SearchResult r{text_of(*o, "name", 300), text_of(*o, "description", 2000), 0, false, false};
                const auto on = [&](const char *key) {
                    const auto *value = o->if_contains(key);
                    return value && value->is_bool() && value->get_bool();
                };
                r.official = on("is_official");
                r.automated = on("is_automated");
                if (const auto *stars = o->if_contains("star_count"); stars && stars->is_int64())
                    r.stars = static_cast<int>(std::clamp<int64_t>(stars->get_int64(), 0, INT32_MAX));
                if (!r.name.empty()) out.push_back(std::move(r));
            }
            return out;
        }
        const std::string wanted = lower(term);
        list_pages(call, e, registry, "registry:catalog:*", credential, "/v2/_catalog?n=1000",
                   [&](const HttpResponse &response) {
                       if (!response.ok()) throw combined(doing, {judge(e, response)});
                       const auto document = parsed(response.body);
                       const auto *list = array_in(document, "repositories");
                       if (!list) return false;
                       for (const auto &name : *list) {
                           if (!name.is_string() || out.size() >= limit) continue;
                           const std::string text = one_line(name.get_string(), 300);
                           if (lower(text).find(wanted) != std::string::npos)
                               out.push_back({registry + "/" + text, "", 0, false, false});
                       }
                       return out.size() < limit;
                   });
        return out;
    } catch (const TransportError &error) {
        throw Error(ErrorClass::kUnavailable, doing + ": " + e.url + ": " + error.message(), error.hint());
    }
}

} // namespace gantry::oci
