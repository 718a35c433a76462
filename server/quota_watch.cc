#include "server/quota_watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/log.h"

namespace spherical::server {
namespace {

// A burst that lasts longer is looked at in the middle.
constexpr int32_t kQuietPeriodsMax = 10;
constexpr uint32_t kEvents = IN_CLOSE_WRITE | IN_MODIFY | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_DELETE_SELF |
                             IN_MOVE_SELF | IN_ONLYDIR;

std::string FolderOf(const std::string& file) {
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash + 1);
}

}  // namespace

QuotaWatch::QuotaWatch(std::string file, std::function<void()> changed, Options options)
    : file_(std::move(file)),
      folder_(FolderOf(file_)),
      changed_(std::move(changed)),
      options_(options),
      notify_(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  if (notify_ < 0) {
    Log(LogLevel::kWarning, absl::StrCat("no inotify (", std::strerror(errno), "): ", file_, " is looked at every ",
                                         absl::FormatDuration(options_.look)));
  }
  WatchFolder();
  thread_ = std::thread([this] { Run(); });
}

QuotaWatch::~QuotaWatch() {
  eventfd_write(stop_, 1);
  thread_.join();
  close(stop_);
  if (notify_ >= 0) close(notify_);
}

void QuotaWatch::WatchFolder() {
  if (notify_ >= 0) watched_ = inotify_add_watch(notify_, folder_.c_str(), kEvents);
}

void QuotaWatch::Run() {
  std::string seen = Look();
  changed_();
  while (true) {
    const Event event = Wait(options_.look);
    if (event == Event::kStop) return;
    if (event == Event::kChange) {
      for (int32_t i = 0; i < kQuietPeriodsMax; ++i) {
        const Event more = Wait(options_.quiet);
        if (more == Event::kStop) return;
        if (more == Event::kNone) break;
      }
    }
    // A folder that was away, or another one under its name: adding what is watched already changes nothing.
    WatchFolder();
    std::string now = Look();
    if (event == Event::kChange || now != seen) changed_();
    seen = std::move(now);
  }
}

QuotaWatch::Event QuotaWatch::Wait(absl::Duration timeout) {
  pollfd fds[] = {{.fd = stop_, .events = POLLIN, .revents = 0}, {.fd = notify_, .events = POLLIN, .revents = 0}};
  const int got = poll(fds, notify_ >= 0 ? 2 : 1, static_cast<int>(absl::ToInt64Milliseconds(timeout)));
  if (fds[0].revents != 0) return Event::kStop;
  if (got <= 0) return Event::kNone;
  alignas(inotify_event) char events[4096];
  while (read(notify_, events, sizeof(events)) > 0) continue;
  return Event::kChange;
}

std::string QuotaWatch::Look() const {
  struct stat facts = {};
  if (stat(file_.c_str(), &facts) != 0) return "";
  return absl::StrCat(facts.st_dev, " ", facts.st_ino, " ", facts.st_size, " ", facts.st_mtim.tv_sec, " ", facts.st_mtim.tv_nsec, " ",
                      facts.st_ctim.tv_sec, " ", facts.st_ctim.tv_nsec);
}

}  // namespace spherical::server
