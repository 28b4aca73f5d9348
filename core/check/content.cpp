// Blobs against their files, and images against their blobs and layers.
#include "core/base/files.h"
#include "core/check/checker.h"
#include "core/config/config.h"
#include "core/content/content.h"
#include "core/image/images.h"
#include "core/layer/layers.h"
#include "core/store/db.h"

#include <cerrno>
#include <map>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

namespace gantry::check {
namespace {

std::string file_of(Checker &c, const std::string &digest) {
    std::string name = digest;
    name.replace(name.find(':'), 1, "/");
    return c.parts.config->root + "/content/blobs/" + name;
}

std::string digest_of(Checker &c, const std::string &digest) {
    const UniqueFd fd = c.parts.content->open(digest);
    Hasher hasher(digest.substr(0, digest.find(':')));
    std::vector<char> buffer(1 << 20);
    for (;;) {
        c.call.check("check blobs");
        const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error::from_errno(errno, "read blob " + digest);
        if (n == 0) return hasher.digest();
        hasher.update(buffer.data(), static_cast<size_t>(n));
        c.sum.bytes += static_cast<uint64_t>(n);
    }
}

struct ImageRow {
    std::string id, manifest, config;
};

void check_blobs(Checker &c, const std::map<std::string, std::string> &configs) {
    std::map<std::string, uint64_t> rows;
    c.parts.db->transact([&](Db &t) {
        auto row = t.prepare("SELECT digest,size FROM blob");
        while (row.step())
            rows[row.text(0)] = static_cast<uint64_t>(row.integer(1));
    });
    const auto gone = [&](const std::string &digest) { // meanwhile, which is no fault
        bool there = false;
        c.parts.db->transact([&](Db &t) {
            auto row = t.prepare("SELECT 1 FROM blob WHERE digest=?");
            row.bind(1, digest);
            there = row.step();
        });
        return !there;
    };
    for (const auto &[digest, size] : rows) {
        ++c.sum.blobs;
        std::string fault;
        struct stat st {};
        if (::stat(file_of(c, digest).c_str(), &st) != 0)
            fault = "has no file";
        else if (static_cast<uint64_t>(st.st_size) != size)
            fault = "has " + std::to_string(st.st_size) + " of " + std::to_string(size) + " bytes";
        else if (c.options.deep) {
            try {
                if (digest_of(c, digest) != digest) fault = "has other content than its digest says";
            } catch (const Error &error) {
                if (error.error_class() == ErrorClass::kCancelled) throw;
                fault = error.message();
            }
        }
        if (fault.empty() || gone(digest)) continue;
        c.problem("blobs", digest.substr(0, 19), fault, "", [&] {
            c.parts.content->remove(digest);
            const auto config = configs.find(digest);
            if (config == configs.end()) return std::string("removed; a pull brings it again");
            c.parts.content->put(config->second, "application/vnd.oci.image.config.v1+json", digest);
            return std::string("written anew from the database");
        });
    }
    const auto stray = twice([&] {
        std::set<std::string> out;
        for (const std::string algorithm : {"sha256", "sha512"})
            for (const std::string &name :
                 list_directory(c.parts.config->root + "/content/blobs/" + algorithm))
                out.insert(algorithm + "/" + name);
        for (const std::string &digest : c.parts.content->list()) {
            std::string name = digest;
            out.erase(name.replace(name.find(':'), 1, "/"));
        }
        return out;
    });
    for (const std::string &name : stray)
        c.problem("blobs", name.substr(0, 19), "is a file without a row", "", [&] {
            remove_tree(c.parts.config->root + "/content/blobs/" + name);
            return std::string("removed");
        });
}

} // namespace

void check_content(Checker &c) {
    std::vector<ImageRow> rows;
    std::map<std::string, std::string> configs;
    c.parts.db->transact([&](Db &t) {
        auto row = t.prepare("SELECT id,manifest,config FROM image");
        while (row.step())
            rows.push_back({row.text(0), row.text(1), row.text(2)});
    });
    for (const ImageRow &row : rows)
        if (sha256_of(row.config) == row.id) configs[row.id] = row.config;
    check_blobs(c, configs);
    for (const ImageRow &row : rows) {
        c.call.check("check images");
        ImageInfo info;
        try {
            info = c.parts.images->get(row.id);
        } catch (const Error &error) {
            if (error.error_class() != ErrorClass::kNotFound)
                c.problem("images", row.id.substr(7, 12), error.message(), "pull it again");
            continue;
        }
        ++c.sum.images;
        const std::string name = info.repo_tags.empty() ? row.id.substr(7, 12) : info.repo_tags.front();
        if (row.id.starts_with("sha256:") && !configs.contains(row.id))
            c.problem("images", name, "has another configuration in the database than its id says",
                      "remove and pull it again");
        else if (!c.parts.content->has(row.id))
            c.problem("images", name, "its configuration is not among the blobs", "", [&] {
                c.parts.content->put(row.config, "application/vnd.oci.image.config.v1+json", row.id);
                return std::string("written anew from the database");
            });
        if (!c.parts.content->has(row.manifest))
            c.problem("images", name, "its manifest is not among the blobs",
                      "pull it again; containers of it are not affected");
        std::string chain, top;
        for (const std::string &diff : info.diff_ids)
            chain = chain_id_of(chain, diff);
        try {
            if (!info.top_layer.empty()) top = c.parts.layers->get(info.top_layer).chain_id;
            if (top != chain)
                c.problem("images", name, "does not stand on the layers its configuration names",
                          "remove and pull it again");
        } catch (const Error &error) {
            c.problem("images", name, error.message(), "pull it again");
        }
    }
}

} // namespace gantry::check
