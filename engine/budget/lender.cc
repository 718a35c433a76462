#include "engine/budget/lender.h"

#include <algorithm>
#include <utility>

#include "engine/kv/head_notes.h"
#include "kernels/base/check.h"
#include "kernels/spherical/page_layout.h"

namespace spherical::engine {
namespace {

using kernels::kExactTokensPerPage;
using kernels::Tier;

size_t PagesFor(int32_t tokens, int32_t page_tokens) { return static_cast<size_t>(CeilDiv(tokens, page_tokens)); }

}  // namespace

Lender::Lender(const KvShape& shape, PageCount pool_pages, TokenCount workspace_tokens)
    : shape_(shape),
      pool_(pool_pages, shape.page_bytes),
      workspace_(WorkspaceShape(shape), shape.mode.coded ? workspace_tokens : TokenCount(0)),
      ledger_(pool_pages, shape.page_bytes) {}

std::optional<Reservation> Lender::Reserve(TenantId tenant, PageCount pages) {
  if (!ledger_.CanReserve(tenant, pages)) return std::nullopt;
  std::optional<Reservation> room = pool_.Reserve(pages);
  if (room) ledger_.Reserve(tenant, pages);
  return room;
}

bool Lender::GrantWorkspace(int32_t prompt_tokens, Loan& loan, PageTable& table) {
  if (!shape_.mode.coded || loan.workspace.granted()) return true;
  std::optional<WorkspaceRoom> room = workspace_.Grant(prompt_tokens);
  if (!room) return false;
  loan.workspace = *std::move(room);
  const int32_t samples = workspace_.SamplePagesFor(prompt_tokens);
  for (int32_t i = 0; i < table.heads(); ++i) {
    for (int32_t page = 0; page < samples; ++page) table.head(i).samples.push_back(workspace_.Acquire(loan.workspace));
  }
  return true;
}

PageId Lender::Acquire(Loan& loan) {
  ledger_.Acquire(loan.tenant, PageCount(1));
  return pool_.Acquire(loan.room);
}

void Lender::Release(PageId page, Loan& loan) {
  pool_.Release(page, loan.room);
  ledger_.Release(loan.tenant, PageCount(1));
}

PageId Lender::AcquireExact(Loan& loan) { return shape_.mode.coded ? workspace_.Acquire(loan.workspace) : Acquire(loan); }

void Lender::ReleaseExact(PageId page, Loan& loan) {
  shape_.mode.coded ? workspace_.Release(page, loan.workspace) : Release(page, loan);
}

void Lender::LendCoded(Tier tier, int32_t tokens, Loan& loan, HeadPages& pages) {
  std::vector<PageId>& list = pages.of(tier).pages;
  const size_t wanted = PagesFor(tokens, kernels::TokensPerPage(tier, shape_.head_dim));
  while (list.size() < wanted) list.push_back(Acquire(loan));
}

PageCount Lender::Lacks(const HeadPages& pages, Tier tier, int32_t tokens) const {
  const int64_t wanted = CeilDiv(tokens, kernels::TokensPerPage(tier, shape_.head_dim));
  return PageCount(std::max<int64_t>(0, wanted - static_cast<int64_t>(pages.of(tier).pages.size())));
}

bool Lender::CanLend(const Loan& loan, PageCount pages) const {
  if (pages == PageCount(0)) return true;
  const TenantAccount& account = ledger_.account(loan.tenant);
  if (!loan.room.secured() || account.held + pages > account.effective_limit()) return false;
  const PageCount promised = loan.room.promised() - std::min(loan.room.promised(), loan.room.held());
  return pages <= promised + pool_.spare();
}

bool Lender::LendForRows(int32_t entered, int32_t rows, Loan& loan, PageTable& table) {
  const int32_t end = entered + rows;
  loan.room_to.resize(static_cast<size_t>(table.heads()), 0);
  PageCount lacks;
  for (int32_t i = 0; i < table.heads(); ++i) {
    if (loan.room_to[static_cast<size_t>(i)] >= end) continue;
    const HeadPages& pages = table.head(i);
    if (pages.sealed) {
      lacks += Lacks(pages, Tier::kT8, pages.of(Tier::kT8).tokens + rows);
    } else if (!shape_.mode.coded) {
      lacks += PageCount(CeilDiv(end - pages.exact_begin, kExactTokensPerPage) - static_cast<int64_t>(pages.exact.size()));
    }
  }
  if (!CanLend(loan, lacks)) return false;
  for (int32_t i = 0; i < table.heads(); ++i) {
    int32_t& room_to = loan.room_to[static_cast<size_t>(i)];
    if (room_to >= end) continue;
    HeadPages& pages = table.head(i);
    if (pages.sealed) {
      const HeadPages::Coded& whole = pages.of(Tier::kT8);
      LendCoded(Tier::kT8, whole.tokens + rows, loan, pages);
      room_to = entered - whole.tokens + static_cast<int32_t>(whole.pages.size()) * kernels::TokensPerPage(Tier::kT8, shape_.head_dim);
      continue;
    }
    const size_t wanted = PagesFor(end - pages.exact_begin, kExactTokensPerPage);
    while (pages.exact.size() < wanted) pages.exact.push_back(AcquireExact(loan));
    room_to = pages.exact_begin + static_cast<int32_t>(pages.exact.size()) * kExactTokensPerPage;
  }
  return true;
}

bool Lender::LendForRetier(const RetierItem& item, Loan& loan, HeadPages& pages) {
  const TierCounts after = CountsAfter(item);
  PageCount lacks;
  for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
    lacks += Lacks(pages, static_cast<Tier>(tier), after[static_cast<size_t>(tier)]);
  }
  if (!CanLend(loan, lacks)) return false;
  for (int32_t tier = 0; tier < kernels::kTierCount; ++tier) {
    LendCoded(static_cast<Tier>(tier), after[static_cast<size_t>(tier)], loan, pages);
  }
  return true;
}

bool Lender::LendForReprice(RetierItem& item, Loan& loan) {
  const int64_t more = GrowthOf(item, shape_.head_dim);
  if (more > 0 && (!item.whole_only || !CanLend(loan, PageCount(more)))) return false;
  AssignLists(item, shape_.head_dim, [&] { return Acquire(loan); });
  return true;
}

void Lender::LendForNotes(int32_t tokens, Loan& loan, HeadPages& pages) {
  const size_t wanted = static_cast<size_t>(NotePages(tokens, shape_.head_dim));
  while (pages.notes.size() < wanted) pages.notes.push_back(workspace_.Acquire(loan.workspace));
}

void Lender::TakeBackEmptied(int32_t sealed, Loan& loan, HeadPages& pages) {
  loan.room_to.clear();  // of the head, whose tokens and pages are others now; and of all, for which one it is nobody says
  for (int32_t t = 0; t < kernels::kTierCount; ++t) {
    const Tier tier = static_cast<Tier>(t);
    HeadPages::Coded& coded = pages.of(tier);
    const size_t kept = PagesFor(coded.tokens, kernels::TokensPerPage(tier, shape_.head_dim));
    for (; coded.pages.size() > kept; coded.pages.pop_back()) Release(coded.pages.back(), loan);
  }
  const size_t emptied = pages.sealed ? pages.exact.size() : static_cast<size_t>(sealed / kExactTokensPerPage);
  for (size_t i = 0; i < emptied; ++i) ReleaseExact(pages.exact[i], loan);
  pages.exact.erase(pages.exact.begin(), pages.exact.begin() + static_cast<int64_t>(emptied));
  if (sealed > 0) TakeBackAll(pages.notes, loan);
  if (pages.sealed) TakeBackAll(pages.samples, loan);
}

// What leaves does so in front, in whole pages: where the next rows have a place stays as it is.
void Lender::TakeBackLeft(int32_t entered, Loan& loan, PageTable& table) {
  if (shape_.windows.empty()) return;
  for (int32_t i = 0; i < table.heads(); ++i) {
    LeaveWindow(entered, shape_.head_dim, table.head(i),
                [&](PageId page, bool exact) { exact ? ReleaseExact(page, loan) : Release(page, loan); });
  }
}

void Lender::TakeBackAll(std::vector<PageId>& pages, Loan& loan) {
  for (const PageId page : pages) workspace_.Release(page, loan.workspace);
  pages.clear();
}

void Lender::TakeBackWorkspace(Loan& loan) {
  if (loan.workspace.granted()) workspace_.TakeBack(std::exchange(loan.workspace, WorkspaceRoom()));
}

void Lender::TakeBack(Loan loan, PageTable& table) {
  for (int32_t i = 0; i < table.heads(); ++i) {
    HeadPages& pages = table.head(i);
    for (const PageId page : pages.exact) ReleaseExact(page, loan);
    TakeBackAll(pages.notes, loan);
    TakeBackAll(pages.samples, loan);
    for (const HeadPages::Coded& coded : pages.tiers) {
      for (const PageId page : coded.pages) Release(page, loan);
    }
    pages = HeadPages();
  }
  TakeBackWorkspace(loan);
  ledger_.Return(loan.tenant, loan.room.promised());
  pool_.Cancel(std::move(loan.room));
}

void Lender::CheckBudgets() const {
  ledger_.CheckInvariants();
  PageCount reserved, held;
  for (const TenantAccount& account : ledger_.accounts()) {
    reserved += account.reserved;
    held += account.held;
  }
  SPH_CHECK(reserved == pool_.reserved() && held == pool_.held());
  SPH_CHECK(held <= pool_.pages());
}

void Lender::CheckInvariants() const {
  CheckBudgets();
  pool_.CheckInvariants();
  workspace_.pages().CheckInvariants();
}

}  // namespace spherical::engine
