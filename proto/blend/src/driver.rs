//! Which drivers stand still where scripts may not run.
//!
//! Blender computes simple expressions itself. Others are Python, of which it runs, without leave for scripts, what
//! has only the names and the steps of a list that it holds safe. Measured with Blender 3.4 and 4.5, which agree.

use std::iter::Peekable;

/// Bytes of an expression: what Blender has room for. A file may say otherwise.
const EXPRESSION_BYTES_MAX: usize = 255;

/// Functions of Blender's own evaluator, with the fewest and the most arguments.
const SIMPLE_FUNCTIONS: [(&str, usize, usize); 27] = [
    ("abs", 1, 1),
    ("acos", 1, 1),
    ("asin", 1, 1),
    ("atan", 1, 1),
    ("atan2", 2, 2),
    ("ceil", 1, 1),
    ("clamp", 1, 3),
    ("cos", 1, 1),
    ("degrees", 1, 1),
    ("exp", 1, 1),
    ("fabs", 1, 1),
    ("floor", 1, 1),
    ("fmod", 2, 2),
    ("int", 1, 1),
    ("lerp", 3, 3),
    ("log", 1, 2),
    ("max", 1, usize::MAX),
    ("min", 1, usize::MAX),
    ("pow", 2, 2),
    ("radians", 1, 1),
    ("round", 1, 1),
    ("sin", 1, 1),
    ("smoothstep", 3, 3),
    ("sqrt", 1, 1),
    ("tan", 1, 1),
    ("trunc", 1, 1),
    ("pi", 0, 0),
];

/// Names that Python expressions may have without leave for scripts: some built-in ones, and all of `math`.
const SAFE_NAMES: &str = " False None True all any bool float int len max min pow round sum \
     acos acosh asin asinh atan atan2 atanh cbrt ceil comb copysign cos cosh degrees dist e erf erfc exp exp2 expm1 \
     fabs factorial floor fmod frexp fsum gamma gcd hypot inf isclose isfinite isinf isnan isqrt lcm ldexp lgamma \
     log log10 log1p log2 modf nan nextafter perm pi prod radians remainder sin sinh sqrt tan tanh tau trunc ulp \
     frame depsgraph self noise bpy ";

/// Words of Python that do no harm.
const SAFE_WORDS: [&str; 6] = ["and", "else", "if", "in", "is", "not"];

/// Whether Blender evaluates an expression, of these variables, only where scripts may run.
pub(crate) fn needs_scripts(expression: &str, variables: &[String]) -> bool {
    // No Blender wrote it, and it may nest deeper than the stack is.
    if expression.len() > EXPRESSION_BYTES_MAX {
        return true;
    }
    let tokens: Vec<_> = Tokens(expression).collect();
    let is_variable = |name: &str| variables.iter().any(|variable| variable == name);
    !is_simple(&tokens, &is_variable) && !is_safe_python(&tokens, &is_variable)
}

/// Whether every name is a safe one, and none is looked up in another.
fn is_safe_python(tokens: &[Token<'_>], is_variable: &impl Fn(&str) -> bool) -> bool {
    let mut after_dot = false;
    tokens.iter().all(|token| {
        let was_after_dot = std::mem::replace(&mut after_dot, *token == Token::Sign("."));
        match token {
            // `f'{bpy.data}'` computes what is in it.
            Token::Prefixed => false,
            Token::Word(_) if was_after_dot => false,
            Token::Word(word) => {
                let listed = SAFE_NAMES.split_ascii_whitespace().any(|name| name == *word);
                listed || SAFE_WORDS.contains(word) || *word == "or" || is_variable(word)
            }
            // Names an argument or a value.
            Token::Sign("=" | ":=") => false,
            Token::Number(_) | Token::Text | Token::Sign(_) => true,
        }
    })
}

fn is_simple(tokens: &[Token<'_>], is_variable: &impl Fn(&str) -> bool) -> bool {
    let mut simple = Simple { tokens: tokens.iter().peekable(), is_variable };
    simple.choice().is_some() && simple.tokens.next().is_none()
}

/// Blender's own grammar. An expression nests no deeper than it has bytes.
struct Simple<'t, I: Iterator<Item = &'t Token<'t>>, F> {
    tokens: Peekable<I>,
    is_variable: F,
}

impl<'t, I: Iterator<Item = &'t Token<'t>>, F: Fn(&str) -> bool> Simple<'t, I, F> {
    fn choice(&mut self) -> Option<()> {
        self.either()?;
        if self.word("if") {
            self.either()?;
            self.word("else").then_some(())?;
            self.choice()?;
        }
        Some(())
    }

    fn either(&mut self) -> Option<()> {
        self.both()?;
        while self.word("or") {
            self.both()?;
        }
        Some(())
    }

    fn both(&mut self) -> Option<()> {
        self.negation()?;
        while self.word("and") {
            self.negation()?;
        }
        Some(())
    }

    fn negation(&mut self) -> Option<()> {
        while self.word("not") {}
        self.row(&["+", "-"])?;
        while self.sign(&["<", "<=", ">", ">=", "==", "!="]) {
            self.row(&["+", "-"])?;
        }
        Some(())
    }

    /// Sums of products.
    fn row(&mut self, signs: &[&str]) -> Option<()> {
        loop {
            self.part()?;
            if !self.sign(signs) && !self.sign(&["*", "/"]) {
                return Some(());
            }
        }
    }

    fn part(&mut self) -> Option<()> {
        while self.sign(&["+", "-"]) {}
        if self.sign(&["("]) {
            self.choice()?;
            return self.sign(&[")"]).then_some(());
        }
        match self.tokens.next()? {
            Token::Number(number) => number.parse::<f64>().is_ok().then_some(()),
            Token::Word("True" | "False" | "frame") => Some(()),
            Token::Word(name) if (self.is_variable)(name) => Some(()),
            Token::Word(name) => {
                let function = SIMPLE_FUNCTIONS.iter().find(|(known, ..)| known == name);
                let (_, fewest, most) = function?;
                let arguments = if *most == 0 { 0 } else { self.arguments()? };
                // It is one or three.
                let is_odd = *name == "clamp" && arguments == 2;
                (arguments >= *fewest && arguments <= *most && !is_odd).then_some(())
            }
            _ => None,
        }
    }

    fn arguments(&mut self) -> Option<usize> {
        self.sign(&["("]).then_some(())?;
        let mut count = 0;
        loop {
            self.choice()?;
            count += 1;
            if self.sign(&[")"]) {
                return Some(count);
            }
            self.sign(&[","]).then_some(())?;
        }
    }

    fn word(&mut self, word: &str) -> bool {
        self.tokens.next_if(|token| **token == Token::Word(word)).is_some()
    }

    fn sign(&mut self, signs: &[&str]) -> bool {
        let is_it = |token: &&Token<'_>| matches!(token, Token::Sign(sign) if signs.contains(sign));
        self.tokens.next_if(is_it).is_some()
    }
}

/// A piece of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Number(&'a str),
    Word(&'a str),
    Text,
    /// A text with letters before it.
    Prefixed,
    Sign(&'a str),
}

/// Cuts an expression into pieces; what is none, like a lone character, is a sign.
struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn cut(&mut self, len_bytes: usize) -> &'a str {
        let (piece, rest) = self.0.split_at_checked(len_bytes).unwrap_or((self.0, ""));
        self.0 = rest;
        piece
    }

    fn cut_text(&mut self, quote: char) {
        let mut escaped = false;
        let is_end = |c: char| {
            let ends = c == quote && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        };
        let rest = self.0.get(1..).unwrap_or_default();
        self.0 = rest.find(is_end).and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    }
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        self.0 = self.0.trim_start();
        let mut chars = self.0.chars();
        let (first, second) = (chars.next()?, chars.next());
        let end_of = |is_in: &dyn Fn(char) -> bool| self.0.find(|c| !is_in(c));
        Some(match first {
            '0'..='9' => self.number(),
            '.' if second.is_some_and(|c| c.is_ascii_digit()) => self.number(),
            '\'' | '"' => {
                self.cut_text(first);
                Token::Text
            }
            _ if first.is_alphabetic() || first == '_' => {
                let end = end_of(&|c| c.is_alphanumeric() || c == '_');
                let word = self.cut(end.unwrap_or(self.0.len()));
                match self.0.chars().next() {
                    Some(quote @ ('\'' | '"')) => {
                        self.cut_text(quote);
                        Token::Prefixed
                    }
                    _ => Token::Word(word),
                }
            }
            _ => {
                let pairs = ["**", "//", "<=", ">=", "==", "!=", "<<", ">>", ":="];
                let is_pair = pairs.iter().any(|pair| self.0.starts_with(pair));
                Token::Sign(self.cut(if is_pair { 2 } else { first.len_utf8() }))
            }
        })
    }
}

impl<'a> Tokens<'a> {
    /// `1`, `.5`, `1.5e-3`; or another number of Python's, like `0x10`.
    fn number(&mut self) -> Token<'a> {
        let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let mut end = digits(self.0);
        if let Some(rest) = self.0[end..].strip_prefix('.') {
            end += 1 + digits(rest);
        }
        if let Some(rest) = self.0[end..].strip_prefix(['e', 'E']) {
            let sign = usize::from(rest.starts_with(['+', '-']));
            let exponent = digits(&rest[sign..]);
            if exponent > 0 {
                end += 1 + sign + exponent;
            }
        }
        let is_other = |c: char| c.is_ascii_digit() || "_xXabcdefABCDEF".contains(c);
        // `1if x else 2` is a number and a word.
        let rest = &self.0[end..];
        if rest.starts_with(['_', 'x', 'X']) {
            end += rest.find(|c| !is_other(c)).unwrap_or(rest.len());
        }
        Token::Number(self.cut(end))
    }
}
