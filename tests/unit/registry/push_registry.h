// A registry that takes pushes and fails in the ways that a test asks for.
#pragma once

#include "fault_server.h"

#include <algorithm>
#include <deque>

struct PushRegistry {
    std::map<std::string, std::string> blobs, manifests, types; // by "repository@digest" and "repository:tag"
    std::map<std::string, std::string> uploads;                 // by number
    bool takes_patch = true, absolute = false, mounts = true, forgets = false, knows_size = true,
         serves_blobs = false;
    std::deque<int> troubles; // statuses for the next requests of `troubled` method
    std::string troubled = "PATCH";
    std::deque<size_t> cuts; // of the next PATCH or PUT bodies
    std::string upload_host; // where uploads are sent to; "" here
    int next = 0;
    uint64_t received = 0; // bytes of bodies
    mutable std::mutex mutex;
    FaultServer server;

    PushRegistry()
        : server([this](const FaultRequest &r) { return answer(r); },
                 [this](const FaultRequest &r) {
                     std::lock_guard lock(mutex);
                     if (cuts.empty() || (r.method != "PATCH" && r.method != "PUT") ||
                         r.path.find("/manifests/") != std::string::npos || r.header("content-length") == "0")
                         return std::string::npos;
                     const size_t cut = cuts.front();
                     cuts.pop_front();
                     return cut;
                 }) {}

    size_t count(const std::string &method, const std::string &part = "") const {
        const auto seen = server.seen();
        return static_cast<size_t>(std::count_if(seen.begin(), seen.end(), [&](const FaultRequest &r) {
            return r.method == method && r.path.find(part) != std::string::npos;
        }));
    }

    static FaultReply reply(int status, std::map<std::string, std::string> headers = {}) {
        return {status, "", std::move(headers), std::string::npos, false};
    }
    static std::string query(const std::string &path, const std::string &key) {
        size_t at = path.find("?" + key + "=");
        if (at == std::string::npos) at = path.find("&" + key + "=");
        if (at == std::string::npos) return {};
        at += key.size() + 2;
        std::string value = path.substr(at, path.find('&', at) - at), out;
        for (size_t i = 0; i < value.size(); ++i)
            if (value[i] == '%' && i + 2 < value.size())
                out += static_cast<char>(std::stoi(value.substr(i + 1, 2), nullptr, 16)), i += 2;
            else
                out += value[i];
        return out;
    }
    std::map<std::string, std::string> place(const std::string &repository, const std::string &id) {
        const std::string path = "/v2/" + repository + "/blobs/uploads/" + id + "?state=a%2Fb";
        std::map<std::string, std::string> headers{
            {"Location", (upload_host.empty() ? (absolute ? server.url() : "") : upload_host) + path}};
        if (const size_t size = uploads[id].size(); size > 0 && knows_size)
            headers["Range"] = "0-" + std::to_string(size - 1);
        else
            headers["Range"] = "0-0";
        return headers;
    }

    FaultReply answer(const FaultRequest &r) {
        std::lock_guard lock(mutex);
        received += r.body.size();
        if (!troubles.empty() && r.method == troubled) {
            const int status = troubles.front();
            troubles.pop_front();
            return reply(status, {{"Retry-After", "0"}});
        }
        const std::string path = r.path.substr(0, r.path.find('?'));
        if (const size_t at = path.find("/manifests/"); at != std::string::npos) {
            const std::string repository = path.substr(4, at - 4), what = path.substr(at + 11);
            const std::string key = repository + (what.find(':') == std::string::npos ? ":" : "@") + what;
            if (r.method == "HEAD") return reply(manifests.count(key) ? 200 : 404);
            manifests[key] = r.body;
            types[key] = r.header("content-type");
            return reply(201);
        }
        if (const size_t at = path.find("/blobs/uploads/"); at != std::string::npos) {
            const std::string repository = path.substr(4, at - 4);
            std::string id = path.substr(at + 15);
            if (r.method == "POST") {
                const std::string digest = query(r.path, "mount"), from = query(r.path, "from");
                if (mounts && !digest.empty() && blobs.count(from + "@" + digest)) {
                    blobs[repository + "@" + digest] = blobs[from + "@" + digest];
                    return reply(201);
                }
                id = std::to_string(++next);
                uploads[id] = "";
                return reply(202, place(repository, id));
            }
            if (!uploads.count(id) || r.path.find("state=a%2Fb") == std::string::npos) return reply(404);
            std::string &upload = uploads[id];
            if (r.method == "GET") return reply(204, place(repository, id));
            if (r.method == "PATCH") {
                if (!takes_patch) return reply(405);
                const std::string range = r.header("content-range");
                if (!range.empty() && std::stoul(range) != upload.size()) return reply(416);
                upload += r.body;
                if (r.body.size() < std::stoul(r.header("content-length")) && forgets) uploads.erase(id);
                return reply(202, uploads.count(id) ? place(repository, id) : decltype(place("", "")){});
            }
            if (r.method == "PUT") {
                if (r.body.size() < std::stoul(r.header("content-length"))) return reply(500);
                blobs[repository + "@" + query(r.path, "digest")] = upload + r.body;
                uploads.erase(id);
                return reply(201);
            }
        }
        if (const size_t at = path.find("/blobs/"); at != std::string::npos) {
            const auto found = blobs.find(path.substr(4, at - 4) + "@" + path.substr(at + 7));
            if (found == blobs.end() || (r.method == "GET" && !serves_blobs)) return reply(404);
            FaultReply out = reply(200);
            if (r.method == "GET") out.body = found->second;
            return out;
        }
        return reply(404);
    }
};
