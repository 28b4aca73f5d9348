// diff, commit and export: what a container changed, as a list, an image and a tar.
#include "core/container/containers_impl.h"

#include "core/base/log.h"
#include "core/layer/tree_tar.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <set>

namespace gantry {

namespace {

/// What the runtime itself puts in place. Docker keeps it in a layer of its own.
bool is_own(const Change &change) {
    static const std::set<std::string> kOwn = {"/dev",       "/proc",         "/sys",
                                               "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"};
    return change.kind != GANTRY_CHANGE_DELETED &&
           (kOwn.contains(change.path) || change.path.starts_with("/dev/"));
}

/// Holds a running container still. Not recorded: a killed engine's successor thaws what it finds frozen
/// without a record, so that nobody stays frozen for a commit that will never end.
class Freeze {
  public:
    Freeze(Record &record, bool wanted) : record_(record) {
        {
            std::lock_guard lock(record.mutex);
            if (!wanted || !record.state.running || record.state.paused) return;
            task_ = need_task(record);
        }
        try {
            task_->pause(true);
        } catch (const Error &error) {
            try {
                task_->pause(false);
            } catch (const Error &) {
                // The first error counts.
            }
            throw error.with_context("commit container " + record.id);
        }
        std::lock_guard lock(record.mutex);
        record.state.paused = true;
        record.state.status = "paused";
    }
    ~Freeze() {
        if (!task_) return;
        try {
            task_->pause(false);
        } catch (const std::exception &error) {
            log_error("thaw container {}: {}", record_.id, error.what());
        }
        std::lock_guard lock(record_.mutex);
        record_.state.paused = false;
        if (record_.state.running) record_.state.status = "running";
    }
    Freeze(const Freeze &) = delete;

  private:
    Record &record_;
    std::shared_ptr<Task> task_;
};

} // namespace

std::vector<Change> Containers::Impl::changes(const Record &record) const {
    std::vector<Change> list = parts.layers->changes(record.layer);
    std::erase_if(list, is_own);
    // Making the files above moved their directory's time.
    if (std::none_of(list.begin(), list.end(), [](const auto &c) { return c.path.starts_with("/etc/"); }))
        std::erase_if(list,
                      [](const auto &c) { return c.path == "/etc" && c.kind != GANTRY_CHANGE_DELETED; });
    std::sort(list.begin(), list.end(), before);
    return list;
}

std::vector<Change> Containers::changes(const std::string &name) {
    return impl_->changes(*impl_->find(name));
}

std::string Containers::commit(const std::string &name, const CommitRequest &request,
                               const CancelSource &cancel) {
    auto record = impl_->find(name);
    std::lock_guard operation(record->operation); // nobody starts, stops or removes it meanwhile
    ImageCommit what;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        if (record->state.dead || record->state.status == "removing")
            throw Error(ErrorClass::kFailedPrecondition,
                        "You cannot commit container " + record->id + " which is being removed");
        what.config = config_json(*record->config);
        for (const auto &word : record->config->cmd)
            what.created_by += (what.created_by.empty() ? "" : " ") + word;
    }
    what.parent = record->image_id;
    what.layer = record->layer;
    what.overrides = request.overrides;
    what.instructions = request.changes;
    what.author = request.author;
    what.comment = request.comment;
    what.ref = request.ref;
    std::string id;
    {
        const Freeze freeze(*record, request.pause);
        what.changes = impl_->changes(*record);
        id = impl_->parts.images->commit(what, cancel);
    }
    impl_->publish(*record, "commit",
                   {{"comment", request.comment},
                    {"imageID", id},
                    {"imageRef", request.ref ? request.ref->familiar() : ""}});
    return id;
}

void Containers::export_tree(const std::string &name, const ByteSink &sink, const CancelSource &cancel) {
    auto record = impl_->find(name);
    const UniqueFd tree = mount_detached(impl_->parts.layers->mounts(record->layer, true));
    TreeTarOptions options;
    options.notice = [&](const std::string &note) { log_info("export container {}: {}", record->id, note); };
    options.check = [&] {
        if (cancel.cancelled())
            throw Error(ErrorClass::kCancelled, "export container: cancelled by the caller");
    };
    write_tree_tar(tree.get(), sink, options);
    impl_->publish(*record, "export");
}

} // namespace gantry
