#include "common/model/bpe_tokenizer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <numeric>
#include <optional>

#include "common/model/added_tokens.h"
#include "common/model/bpe.h"
#include "common/model/byte_level.h"
#include "common/model/normalizer.h"
#include "common/model/pre_tokenizer.h"
#include "common/model/utf8.h"
#include "common/strings.h"

namespace echelon {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // ▁

// "<0x0A>" is the byte 10.
std::optional<uint8_t> ByteOfToken(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  uint8_t byte = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, byte, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return byte;
}

class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(TokenizerData data) : data_(std::move(data)) {}
  Status Prepare();

  using Tokenizer::Encode;
  std::vector<int32_t> Encode(std::span<const TextSpan> spans, bool add_special) const override;
  int32_t vocab_size() const override { return static_cast<int32_t>(data_.tokens.size()); }
  std::string TokenBytes(int32_t id) const override;
  bool IsSpecial(int32_t id) const override { return InRange(id) && special_[id]; }
  bool DropsLeadingSpace() const override { return data_.drops_leading_space; }
  std::string Decode(std::span<const int32_t> ids) const override;
  int32_t bos_id() const override { return data_.bos_id; }
  const std::vector<int32_t>& end_ids() const override { return data_.end_ids; }
  const std::string& chat_template() const override { return data_.chat_template; }

 private:
  bool InRange(int64_t id) const { return id >= 0 && id < int64_t(data_.tokens.size()); }
  Status CheckId(int64_t id, std::string_view what) const;
  Status CheckVocabulary();
  Status PrepareAdded();
  void PrepareBytes();
  Status PrepareMerges();
  void PrepareJoins();
  void EncodePlain(MarkedText text, bool at_start, std::vector<int32_t>& out) const;
  void EncodePiece(std::string_view piece, std::vector<int32_t>& out) const;
  void FirstSymbolsOfBytes(std::string_view piece, std::vector<int32_t>& ids) const;
  void FirstSymbolsOfChars(std::string_view piece, std::vector<int32_t>& ids) const;

  TokenizerData data_;
  VocabularyMap vocabulary_;   // views into data_.tokens
  std::vector<bool> special_;  // by id
  std::vector<bool> added_;
  std::array<int32_t, 256> byte_ids_{};  // the token of a byte alone, or -1
  bool has_all_bytes_ = false;
  AddedTokens raw_added_;
  AddedTokens normalized_added_;
  std::unique_ptr<MergeTable> merges_;
  std::optional<PreTokenizer> pre_tokenizer_;
};

Status BpeTokenizer::CheckId(int64_t id, std::string_view what) const {
  if (InRange(id)) return {};
  return Corrupt(StrCat(data_.source, ": ", what, ": token id ", id,
                        " is not in the vocabulary of ", data_.tokens.size()),
                 std::string(what));
}

Status BpeTokenizer::CheckVocabulary() {
  const size_t count = data_.tokens.size();
  if (count == 0) return Corrupt(StrCat(data_.source, ": the vocabulary is empty"), "tokens");
  if (int64_t(count) > kVocabularyMax) {
    return Unsupported(
        StrCat(data_.source, ": ", count, " tokens, more than the limit of ", kVocabularyMax));
  }
  vocabulary_.reserve(count);
  for (size_t id = 0; id < count; ++id) {
    const std::string& token = data_.tokens[id];
    if (token.size() > size_t{kTokenCharsMax}) {
      return Unsupported(StrCat(data_.source, ": token ", id, " has ", token.size(),
                                " bytes, more than the limit of ", kTokenCharsMax));
    }
    // Of equal texts the last stands, as in a dictionary filled in order.
    if (!token.empty()) vocabulary_.insert_or_assign(token, static_cast<int32_t>(id));
  }
  if (!data_.scores.empty() && data_.scores.size() != count) {
    return Corrupt(
        StrCat(data_.source, ": ", data_.scores.size(), " scores for ", count, " tokens"),
        "scores");
  }
  if (data_.bos_id != -1) RETURN_IF_ERROR(CheckId(data_.bos_id, "bos_token_id"));
  if (data_.unknown_id != -1) RETURN_IF_ERROR(CheckId(data_.unknown_id, "unknown_token_id"));
  for (int32_t id : data_.end_ids) RETURN_IF_ERROR(CheckId(id, "eos_token_id"));
  for (int32_t id : data_.prefix) RETURN_IF_ERROR(CheckId(id, "post_processor"));
  for (int32_t id : data_.suffix) RETURN_IF_ERROR(CheckId(id, "post_processor"));
  return {};
}

Status BpeTokenizer::PrepareAdded() {
  special_.assign(data_.tokens.size(), false);
  added_.assign(data_.tokens.size(), false);
  size_t bytes = 0;
  for (const AddedToken& token : data_.added) {
    RETURN_IF_ERROR(CheckId(token.id, "added_tokens"));
    if (token.text.empty()) continue;  // nothing to find; Hugging Face leaves it out too
    bytes += token.text.size();
    if (token.text.size() > kAddedTokenBytesMax || bytes > kAddedBytesMax) {
      return Unsupported(StrCat(data_.source, ": added_tokens: token ", token.id,
                                " exceeds the limit of ", kAddedTokenBytesMax, " bytes for one or ",
                                kAddedBytesMax, " for all"));
    }
    special_[token.id] = token.special;
    added_[token.id] = true;
    if (token.normalized) {
      const std::string text = Normalize(data_.normalizer, {token.text, ""}).text;
      if (!text.empty()) normalized_added_.Add(text, token);
    } else {
      raw_added_.Add(token.text, token);
    }
  }
  return {};
}

void BpeTokenizer::PrepareBytes() {
  byte_ids_.fill(-1);
  for (int byte = 0; byte < 256; ++byte) {
    std::string text;
    if (data_.byte_level) {
      AppendUtf8(text, ByteLevelChar(static_cast<uint8_t>(byte)));
    } else {
      constexpr char kDigits[] = "0123456789ABCDEF";
      text = StrCat("<0x", kDigits[byte >> 4], kDigits[byte & 15], ">");
    }
    const auto it = vocabulary_.find(text);
    if (it != vocabulary_.end()) byte_ids_[byte] = it->second;
  }
  has_all_bytes_ = std::find(byte_ids_.begin(), byte_ids_.end(), -1) == byte_ids_.end();
}

// Rank by score, the highest first; equal scores share a rank.
void BpeTokenizer::PrepareJoins() {
  const size_t count = data_.tokens.size();
  std::vector<int32_t> by_score(count);
  std::iota(by_score.begin(), by_score.end(), 0);
  std::stable_sort(by_score.begin(), by_score.end(),
                   [&](int32_t a, int32_t b) { return data_.scores[a] > data_.scores[b]; });
  std::vector<int32_t> order(count);
  int32_t rank = 0;
  for (size_t i = 0; i < count; ++i) {
    if (i > 0 && data_.scores[by_score[i]] != data_.scores[by_score[i - 1]]) ++rank;
    order[by_score[i]] = special_[by_score[i]] ? -1 : rank;
  }
  merges_ = std::make_unique<JoinMerges>(data_.tokens, vocabulary_, std::move(order));
}

Status BpeTokenizer::PrepareMerges() {
  if (data_.merges.empty() && !data_.scores.empty()) {
    PrepareJoins();
    return {};
  }
  auto table = std::make_unique<PairMerges>();
  table->Reserve(data_.merges.size());
  std::string joined;
  for (size_t rank = 0; rank < data_.merges.size(); ++rank) {
    const auto& [left, right] = data_.merges[rank];
    joined.assign(left).append(right);
    const auto a = vocabulary_.find(left);
    const auto b = vocabulary_.find(right);
    const auto c = vocabulary_.find(joined);
    if (a == vocabulary_.end() || b == vocabulary_.end() || c == vocabulary_.end()) {
      return Corrupt(StrCat(data_.source, ": merges: entry ", rank,
                            " names a token that is not in the vocabulary"),
                     "merges");
    }
    // A special token is never put together from text: a stranger could spell it.
    if (!special_[c->second]) table->Add(a->second, b->second, {rank, c->second});
  }
  data_.merges.clear();
  data_.merges.shrink_to_fit();
  merges_ = std::move(table);
  return {};
}

Status BpeTokenizer::Prepare() {
  RETURN_IF_ERROR(CheckVocabulary());
  RETURN_IF_ERROR(PrepareAdded());
  PrepareBytes();
  RETURN_IF_ERROR(PrepareMerges());
  ASSIGN_OR_RETURN(pre_tokenizer_, PreTokenizer::Create(data_.pre_tokenizer, data_.source));
  return {};
}

std::vector<int32_t> BpeTokenizer::Encode(std::span<const TextSpan> spans, bool add_special) const {
  MarkedText input;
  bool all_trusted = true;
  for (const TextSpan& span : spans) {
    input.text += span.text;
    input.untrusted.append(span.text.size(), span.trusted ? '\0' : '\1');
    all_trusted = all_trusted && span.trusted;
  }
  if (all_trusted) input.untrusted.clear();
  if (!IsValidUtf8(input.text)) input = RepairMarked(input);

  std::vector<int32_t> ids;
  if (add_special) ids = data_.prefix;
  for (const AddedTokens::Piece& piece : raw_added_.Cut(input)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      EncodePlain(input.Sub(piece.range), piece.range.begin == 0, ids);
    }
  }
  if (add_special) ids.insert(ids.end(), data_.suffix.begin(), data_.suffix.end());
  return ids;
}

void BpeTokenizer::EncodePlain(MarkedText text, bool at_start, std::vector<int32_t>& out) const {
  text = Normalize(data_.normalizer, std::move(text));
  const auto encode = [&](std::string_view plain, bool first) {
    Pieces pieces;
    pre_tokenizer_->Split(plain, first, pieces);
    for (std::string_view piece : pieces.views) EncodePiece(piece, out);
  };
  if (normalized_added_.empty()) return encode(text.text, at_start);
  for (const AddedTokens::Piece& piece : normalized_added_.Cut(text)) {
    const auto [begin, end] = piece.range;
    if (piece.id >= 0) {
      out.push_back(piece.id);
    } else {
      encode(std::string_view(text.text).substr(begin, end - begin), at_start && begin == 0);
    }
  }
}

void BpeTokenizer::EncodePiece(std::string_view piece, std::vector<int32_t>& out) const {
  if (data_.ignore_merges) {
    const auto it = vocabulary_.find(data_.byte_level ? ByteLevelText(piece) : std::string(piece));
    if (it != vocabulary_.end() && !special_[it->second]) {
      out.push_back(it->second);
      return;
    }
  }
  std::vector<int32_t> ids;
  if (data_.byte_level) {
    FirstSymbolsOfBytes(piece, ids);
  } else {
    FirstSymbolsOfChars(piece, ids);
  }
  MergeAll(*merges_, ids);
  out.insert(out.end(), ids.begin(), ids.end());
}

void BpeTokenizer::FirstSymbolsOfBytes(std::string_view piece, std::vector<int32_t>& ids) const {
  bool after_unknown = false;
  for (const char c : piece) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    const bool unknown = id < 0;
    if (!unknown) {
      ids.push_back(id);
    } else if (data_.unknown_id >= 0 && !(after_unknown && data_.fuse_unknown)) {
      ids.push_back(data_.unknown_id);
    }
    after_unknown = unknown;
  }
}

void BpeTokenizer::FirstSymbolsOfChars(std::string_view piece, std::vector<int32_t>& ids) const {
  bool after_unknown = false;
  for (size_t i = 0; i < piece.size();) {
    const std::string_view c = piece.substr(i, DecodeUtf8(piece, i).bytes);
    i += c.size();
    const auto it = vocabulary_.find(c);
    if (it != vocabulary_.end()) {
      ids.push_back(it->second);
      after_unknown = false;
      continue;
    }
    const bool as_bytes =
        data_.byte_fallback && (has_all_bytes_ || std::all_of(c.begin(), c.end(), [&](char byte) {
                                  return byte_ids_[static_cast<uint8_t>(byte)] >= 0;
                                }));
    if (as_bytes) {
      for (const char byte : c) ids.push_back(byte_ids_[static_cast<uint8_t>(byte)]);
      after_unknown = false;
      continue;
    }
    if (data_.unknown_id >= 0 && !(after_unknown && data_.fuse_unknown)) {
      ids.push_back(data_.unknown_id);
    }
    after_unknown = true;
  }
}

std::string BpeTokenizer::TokenBytes(int32_t id) const {
  if (!InRange(id)) return "";
  const std::string& token = data_.tokens[id];
  if (data_.byte_level) return added_[id] ? token : ByteLevelBytes(token);
  if (!added_[id] && data_.byte_fallback) {
    if (const auto byte = ByteOfToken(token)) return std::string(1, static_cast<char>(*byte));
  }
  if (!data_.space_marks) return token;
  return Normalize({{NormalizerStep::Kind::kReplace, std::string(kSpaceMark), " "}}, {token, ""})
      .text;
}

std::string BpeTokenizer::Decode(std::span<const int32_t> ids) const {
  Detokenizer stream(*this);
  std::string text;
  for (int32_t id : ids) text += stream.Push(id);
  return text + stream.Flush();
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> BuildTokenizer(TokenizerData data) {
  auto tokenizer = std::make_unique<BpeTokenizer>(std::move(data));
  RETURN_IF_ERROR(tokenizer->Prepare());
  return std::unique_ptr<Tokenizer>(std::move(tokenizer));
}

}  // namespace echelon
