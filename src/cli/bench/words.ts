/** Short words that most vocabularies have as one token with the space before them. */
const words = (
  "the of and to in is was for on that with as it by at from his an be this are or her had not " +
  "but which have were been has their more who one all they its would there can will time new " +
  "some only first two other into over also after such most made then them so what up out about " +
  "no may any many these part used life work year day still way even where long great world own " +
  "each state same high city name group small line end house left water point right form"
).split(" ");

/** Ids below it stand for different words. */
export const wordCount = words.length;

/** A text of as many words as there are ids, for servers whose tokens are not known here. */
export function wordsOf(ids: ArrayLike<number>): string {
  return Array.from(ids, (id) => words[id % wordCount]).join(" ");
}
